// Refreshes the jobs on a page, until all of them have ended: fetches the page and replaces the element #jobs.
//
// The header marks requests that no person made, so that they do not extend the login.
"use strict";
{
  const INTERVAL = 3000; // milliseconds
  const HEADERS = { "X-Automatic-Refresh": "1" };
  const jobs = () => document.getElementById("jobs");

  async function refresh() {
    const hasFocus = jobs().contains(document.activeElement); // replacing the focused button would lose the focus
    if (!document.hidden && !hasFocus) {
      try {
        const response = await fetch(location.href, { headers: HEADERS, cache: "no-store", redirect: "manual" });
        if (response.status === 404) return jobs().replaceChildren("Done. This object no longer exists.");
        const page = new DOMParser().parseFromString(await response.text(), "text/html");
        if (response.ok && page.getElementById("jobs")) jobs().replaceWith(page.getElementById("jobs"));
      } catch {
        // The server does not respond. The next refresh may succeed.
      }
    }
    schedule();
  }

  function schedule() {
    if (jobs().querySelector("[data-unfinished]")) setTimeout(refresh, INTERVAL);
  }

  schedule();
}
