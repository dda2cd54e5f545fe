"use strict";
(() => {
  const view = document.getElementById("tokens");
  const box = document.getElementById("tip");
  if (!view) return;

  const show = (token) => {
    // A title would open a second box; it moves into the data of the token when first met.
    if (token.title) { token.dataset.tip = token.title; token.removeAttribute("title"); }
    box.textContent = "“" + token.textContent.trim() + "” " + token.dataset.tip;
    box.hidden = false;
    const at = token.getBoundingClientRect();
    const left = Math.min(at.left, document.documentElement.clientWidth - box.offsetWidth - 8);
    const above = at.top - box.offsetHeight - 8;
    box.style.left = Math.max(8, left) + "px";
    box.style.top = (above > 8 ? above : at.bottom + 8) + "px";
  };
  const hide = () => { box.hidden = true; };

  let current = null;
  const select = (token) => {
    if (current) current.classList.remove("at");
    current = token;
    if (!token) { hide(); return; }
    token.classList.add("at");
    token.scrollIntoView({ block: "nearest" });
    show(token);
  };

  view.addEventListener("mouseover", (event) => {
    const token = event.target.closest(".t");
    if (token) show(token); else if (!current) hide();
  });
  view.addEventListener("mouseleave", () => { if (current) show(current); else hide(); });
  view.addEventListener("focusin", (event) => {
    if (event.target.classList.contains("tokens")) select(event.target.querySelector(".t"));
  });
  view.addEventListener("click", (event) => {
    const token = event.target.closest(".t");
    if (token) select(token);
  });
  view.addEventListener("focusout", () => select(null));
  view.addEventListener("keydown", (event) => {
    if (!current || !event.target.classList.contains("tokens")) return;
    const all = [...event.target.querySelectorAll(".t")];
    const here = all.indexOf(current);
    const to = { ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: all.length - 1 }[event.key];
    if (event.key === "Escape") hide();
    if (to === undefined) return;
    event.preventDefault();
    select(all[Math.max(0, Math.min(all.length - 1, to))]);
  });
  addEventListener("scroll", () => { if (current && !box.hidden) show(current); else hide(); }, { passive: true });

  const switches = [...view.querySelectorAll("input[name=view]")];
  const colour = () => { view.dataset.view = switches.find((one) => one.checked).value; };
  switches.forEach((one) => one.addEventListener("change", colour));
  colour();
})();
