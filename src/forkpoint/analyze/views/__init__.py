"""What a person looks at: pages and the terminal."""
