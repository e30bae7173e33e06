// A browser keeps pages that were left, to come back to them: what it keeps of this one is masked.
addEventListener("pagehide", () => {
  for (const shown of document.querySelectorAll("[data-phi]")) shown.textContent = "●●●●●●";
});
