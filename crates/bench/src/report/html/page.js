// Tips at once instead of after a second, and contenders that can be hidden. The page is complete without.
"use strict";
document.documentElement.classList.add("js");
const tip = document.getElementById("tip");
document.addEventListener("pointermove", (event) => {
  const marked = event.target.closest("[data-tip]");
  tip.hidden = !marked;
  if (!marked) return;
  tip.textContent = marked.dataset.tip;
  const left = Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8);
  tip.style.left = `${left}px`;
  tip.style.top = `${event.clientY + 18}px`;
});
for (const button of document.querySelectorAll(".toggles button")) {
  button.addEventListener("click", () => {
    const shown = button.getAttribute("aria-pressed") === "false";
    button.setAttribute("aria-pressed", String(shown));
    for (const part of document.querySelectorAll(`svg .${button.dataset.series}`)) {
      part.style.visibility = shown ? "" : "hidden";
    }
  });
}
