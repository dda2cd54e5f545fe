"""forkpoint: which tokens should learn?"""
