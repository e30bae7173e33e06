// Makes the admin's pages easier to read: rows as cards on narrow screens (tables.js), filters that fold, buttons that
// copy ids, and times in the zone of the browser. Without this script the pages show UTC, and ids in their titles.
"use strict";
{
  annotateTables(document, "#result_list, .cards");

  // --- Filters: a column beside a wide list, otherwise a panel above it that a button opens ----------------------

  function foldFilters(filters) {
    const list = filters.parentElement, form = list.querySelector(".changelist-form-container");
    const toolbar = document.getElementById("toolbar") ?? form.insertBefore(document.createElement("div"), form.firstChild);
    const isNarrow = matchMedia("(max-width: 1500px)");
    const isActive = filters.querySelector("#changelist-filter-extra-actions") !== null; // "Clear all filters"
    const button = document.createElement("button");
    button.type = "button";
    button.id = "filters-button";
    button.className = "button";
    button.textContent = isActive ? "Filters (active)" : "Filters";
    button.setAttribute("aria-controls", filters.id);

    function open(isOpen) {
      filters.hidden = isNarrow.matches && !isOpen;
      button.setAttribute("aria-expanded", isOpen);
    }

    function place() {
      button.hidden = !isNarrow.matches;
      filters.classList.toggle("panel", isNarrow.matches);
      if (isNarrow.matches) toolbar.after(filters);
      else list.append(filters);
      open(isActive || location.hash === `#${filters.id}`); // a skip link leads there
    }

    button.addEventListener("click", () => open(filters.hidden));
    // At the click, because "hashchange" comes later: a Tab before it would pass the filters while they are hidden.
    document.querySelector(`.skip-to-content-link[href="#${filters.id}"]`)?.addEventListener("click", () => open(true));
    isNarrow.addEventListener("change", place);
    toolbar.append(button);
    place();
  }

  const filters = document.getElementById("changelist-filter");
  if (filters) foldFilters(filters);

  // --- Ids are copied ---------------------------------------------------------------------------------------------

  function addCopyButton(element, announcement) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.setAttribute("aria-label", `Copy the ID that ends with ${element.dataset.copy.slice(-8)}`);
    button.title = "Copy the ID";
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(element.dataset.copy);
      announcement.textContent = "";
      announcement.textContent = "Copied";
      button.classList.add("copied");
      setTimeout(() => button.classList.remove("copied"), 2000);
    });
    element.append(button);
  }

  const ids = document.querySelectorAll("[data-copy]");
  if (ids.length && navigator.clipboard) { // only over HTTPS or on the same machine
    const announcement = document.createElement("div");
    announcement.className = "visually-hidden";
    announcement.setAttribute("role", "status");
    document.body.append(announcement);
    for (const element of ids) addCopyButton(element, announcement);
  }
}
