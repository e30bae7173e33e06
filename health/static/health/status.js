// Fetches the part of the status page that changes, again and again, and puts what is new in its place.
"use strict";
{
  const EVERY = 2000, AT_MOST = 30000; // milliseconds between two looks; the most when the server does not answer
  const main = document.getElementById("content-main");
  const said = document.getElementById("status-said");
  const lost = document.getElementById("status-lost");
  const words = document.getElementById("status-lost-words");
  const pause = document.getElementById("status-pause");
  const title = document.title;
  let failures = 0, next = 0, timer, paused = false, looking = false, loggedOut = false;

  const part = () => document.getElementById("status");
  const seconds = (milliseconds) => Math.max(0, Math.round(milliseconds / 1000));

  // Changes what differs and leaves the rest: focus, selection and a screen reader's place are not lost.
  function morph(from, to) {
    if (from.nodeName !== to.nodeName || from.id !== to.id) return from.replaceWith(to);
    if (from.nodeType === Node.TEXT_NODE) {
      if (from.data !== to.data) from.data = to.data;
      return;
    }
    for (const { name } of [...from.attributes ?? []]) if (!to.hasAttribute(name)) from.removeAttribute(name);
    for (const { name, value } of to.attributes ?? [])
      if (from.getAttribute(name) !== value) from.setAttribute(name, value);
    const old = [...from.childNodes], now = [...to.childNodes];
    old.slice(now.length).forEach((node) => node.remove());
    now.forEach((node, i) => (i < old.length ? morph(old[i], node) : from.append(node)));
  }

  // To a screen reader: a change of state, never a refresh.
  function say(text) {
    if (said.textContent !== text) said.textContent = text;
  }

  function show(html) {
    const before = part().dataset.said;
    morph(part(), new DOMParser().parseFromString(html, "text/html").getElementById("status"));
    document.title = `${part().dataset.title} | ${title}`;
    if (failures) say(`The server answers again. ${part().dataset.said}`);
    else if (part().dataset.said !== before) say(part().dataset.said);
    failures = 0;
    tell();
  }

  function tell() {
    lost.hidden = !failures && !loggedOut;
    document.getElementById("status").classList.toggle("stale", !lost.hidden);
    if (loggedOut) words.textContent = "You are logged out, and see what was so before.";
    else if (failures)
      words.textContent = `The server does not answer. What you see is of ${part().dataset.at} UTC. ` +
        `Next try in ${seconds(next - Date.now())} s.`;
    if (failures || loggedOut) document.title = `${loggedOut ? "Logged out" : "No answer"} | ${title}`;
  }

  async function look() {
    if (looking || paused || loggedOut || document.hidden) return;
    looking = true;
    clearTimeout(timer);
    try {
      const signal = AbortSignal.timeout(Number(main.dataset.giveUpMs));
      const answer = await fetch(main.dataset.part, { signal, cache: "no-store", redirect: "error" });
      if (answer.status === 403) {
        loggedOut = true;
        document.getElementById("status-login").hidden = false;
        say("You are logged out.");
        return tell();
      }
      if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
      show(await answer.text());
    } catch {
      failures += 1;
      say("The server does not answer.");
    } finally {
      looking = false;
      const wait = Math.min(AT_MOST, EVERY * 2 ** failures);
      next = Date.now() + wait;
      timer = setTimeout(look, wait);
      tell();
    }
  }

  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.textContent = paused ? "Resume" : "Pause";
    look();
  });
  document.addEventListener("visibilitychange", look);
  setInterval(() => { if (failures) tell(); }, 1000);
  document.title = `${part().dataset.title} | ${title}`;
  timer = setTimeout(look, EVERY);
}
