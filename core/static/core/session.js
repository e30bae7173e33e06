// Opens the login page when the login ends, and shows a notice a minute before.
//
// The page contains how many seconds are left. The time is compared with the clock, because timers pause while the
// computer sleeps. Tabs send each other new ends, so that work in one keeps the others open. No request is sent
// automatically, because it would extend an unattended login.
"use strict";
{
  const WARNING = 60000; // milliseconds
  const { secondsLeft, loginUrl, stayUrl } = document.currentScript.dataset;
  const channel = new BroadcastChannel("voiceassist-session"); // messages: the time of the end, 0 if it has ended
  const notice = document.createElement("div"), text = document.createElement("span");
  let endsAt = 0, isLeaving = false;

  function leave() {
    if (isLeaving) return;
    isLeaving = true;
    dispatchEvent(new Event("sessionend")); // reveal.js masks PHI at once, because the server may be slow
    location.replace(`${loginUrl}?next=${encodeURIComponent(location.pathname + location.search)}`);
  }

  function extend(seconds) {
    // Otherwise endsAt would stay NaN, here and in the other tabs, and none of them would ever leave.
    if (!Number.isFinite(seconds)) throw new TypeError("The number of seconds until the login ends is missing.");
    endsAt = Math.max(endsAt, Date.now() + 1000 * seconds);
    channel.postMessage(endsAt);
    check();
  }

  function check() {
    const left = endsAt - Date.now();
    if (left <= 0) return leave();
    if (left > WARNING) notice.remove();
    else if (!notice.isConnected) {
      text.textContent = "Your session ends in less than a minute. Unsaved changes will be lost.";
      document.body.append(notice);
    }
  }

  async function stayLoggedIn() {
    try {
      const response = await fetch(stayUrl, { cache: "no-store", redirect: "manual" });
      if (response.type === "opaqueredirect") return leave(); // to the login page
      if (!response.ok) throw new Error(`The server responded with the status ${response.status}.`);
      extend((await response.json()).seconds_left);
      text.textContent = "A login ends after 12 hours, even if you work. Save your changes.";
    } catch {
      text.textContent = "The server does not respond. Try again.";
    }
  }

  if (secondsLeft === "0") channel.postMessage(0); // this page is shown only to clients that are logged out
  else {
    const button = document.createElement("button");
    button.textContent = "Stay logged in";
    button.addEventListener("click", stayLoggedIn);
    notice.id = "session-notice";
    notice.setAttribute("role", "alert");
    notice.append(text, " ", button);
    channel.addEventListener("message", ({ data }) => {
      if (data === 0) return leave();
      if (!Number.isFinite(data)) return; // as in extend(): an older version of this script sends NaN
      endsAt = Math.max(endsAt, data);
      check();
    });
    for (const type of ["focus", "pageshow"]) addEventListener(type, check);
    document.addEventListener("visibilitychange", check);
    setInterval(check, 1000);
    extend(Number(secondsLeft));
  }
}
