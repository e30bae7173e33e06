// Masks the values on leaving, because the browser's back/forward cache would otherwise keep showing them.
addEventListener("pagehide", () => {
  for (const element of document.querySelectorAll("[data-phi]")) element.textContent = "●●●●●●";
});
