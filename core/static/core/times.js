// Shows times in the zone of the browser, if the button in the header says so. The server writes them in UTC.
//
// The choice is a cookie, because the logout lets the browser delete localStorage.
"use strict";
{
  const isSecure = location.protocol === "https:";
  const COOKIE = `${isSecure ? "__Secure-" : ""}browser_time_zone`, MAX_AGE = 365 * 24 * 3600; // seconds
  const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
  const button = document.querySelector("#time-zone button");
  const zones = new Intl.DateTimeFormat("en-US", { timeZoneName: "short" });
  const shown = new WeakMap(); // by <time> element: its text in UTC, and the text that replaced it
  let isLocal = document.cookie.split("; ").includes(`${COOKIE}=1`);

  const zoneOf = (time) => zones.formatToParts(time).find((part) => part.type === "timeZoneName").value;
  const two = (number) => String(number).padStart(2, "0");

  // Replaces the parts that the text has: "2026-11-25 14:00:40 UTC", "25 Nov 14:00", "14:00:40".
  function inBrowserZone(text, time) {
    const [year, month, day] = [time.getFullYear(), time.getMonth(), two(time.getDate())];
    const clock = [time.getHours(), time.getMinutes(), time.getSeconds()].map(two);
    return text
      .replace(/\d{4}-\d{2}-\d{2}/, `${year}-${two(month + 1)}-${day}`)
      .replace(/\d{1,2} [A-Z][a-z]{2}( \d{4})?/, (_, withYear) => `${day} ${MONTHS[month]}${withYear ? ` ${year}` : ""}`)
      .replace(/\d{2}:\d{2}(:\d{2})?/, (_, withSeconds) => clock.slice(0, withSeconds ? 3 : 2).join(":"))
      .replace("UTC", zoneOf(time));
  }

  function show(element) {
    const time = new Date(element.dateTime), text = element.textContent;
    if (isNaN(time) || !element.dateTime.includes("T")) return; // a date has no zone
    const before = shown.get(element);
    const utc = before?.text === text ? before.utc : text; // otherwise another script has changed it
    const now = isLocal ? inBrowserZone(utc, time) : utc;
    shown.set(element, { utc, text: now });
    if (now !== text) element.textContent = now;
  }

  function showAll() {
    document.querySelectorAll("time").forEach(show);
  }

  function nameButton() {
    button.textContent = `Times: ${isLocal ? zoneOf(new Date()) : "UTC"}`;
    button.title = isLocal ? "Show times in UTC" : "Show times in the time zone of this browser";
  }

  if (button && zones.resolvedOptions().timeZone !== "UTC") {
    nameButton();
    button.parentElement.hidden = false;
    button.addEventListener("click", () => {
      isLocal = !isLocal;
      const lifetime = `max-age=${isLocal ? MAX_AGE : 0}`;
      document.cookie = `${COOKIE}=1; path=/admin/; samesite=lax; ${lifetime}${isSecure ? "; secure" : ""}`;
      nameButton();
      showAll();
    });
  } else isLocal = false;

  showAll();
  // Other scripts refresh parts of a page. A change that `show` makes itself ends here, because it is already shown.
  new MutationObserver(showAll).observe(document.body, { childList: true, characterData: true, subtree: true });
}
