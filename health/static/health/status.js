// Refreshes the status page: fetches the fragment that changes, and applies only the differences.
"use strict";
{
  // Milliseconds. The interval doubles after a response without changes, and each time that the server does not respond.
  const INTERVAL = 2000, MAX_INTERVAL = 30000, MAX_PAUSE = 600000;
  const main = document.getElementById("content-main");
  const announcement = document.getElementById("status-announcement");
  const notice = document.getElementById("status-stale");
  const noticeText = document.getElementById("status-stale-text");
  const loginLink = document.getElementById("status-login");
  const pauseButton = document.getElementById("status-pause");
  const favicon = document.getElementById("favicon");
  const title = document.title;
  const unfolded = new Set(); // ids of rows whose details are shown on a narrow screen
  let failures = 0, nextAttempt = 0, timer, pauseTimer, pausedAt = null, isFetching = false, isLoggedOut = false, etag = "";

  const status = () => document.getElementById("status");
  const updatedAt = () => document.querySelector("#status-updated time");

  function timeElement(date) {
    const element = document.createElement("time"), iso = date.toISOString();
    element.dateTime = iso;
    element.textContent = `${iso.slice(11, 19)} UTC`;
    return element;
  }

  // On narrow screens a row is a card (tables.js), and the details of what does not fail are folded.
  function prepare(root) {
    for (const body of root.querySelectorAll("tbody")) body.replaceChildren(...body.rows); // so that `morph` can move rows
    annotateTables(root);
    for (const row of root.querySelectorAll("#dependencies :is(tr.ok, tr.unknown)")) {
      const button = document.createElement("button"), isOpen = unfolded.has(row.id);
      button.type = "button";
      button.className = "fold";
      button.textContent = "Details";
      button.setAttribute("aria-expanded", isOpen);
      row.cells[0].append(button);
      row.classList.toggle("folded", !isOpen);
    }
  }

  // Changes only what differs, so that focus, selection and the position of a screen reader are preserved.
  function morph(from, to) {
    if (from.nodeName !== to.nodeName || from.id !== to.id) return from.replaceWith(to);
    if (from.nodeType === Node.TEXT_NODE) {
      if (from.data !== to.data) from.data = to.data;
      return;
    }
    for (const { name } of [...from.attributes ?? []]) if (!to.hasAttribute(name)) from.removeAttribute(name);
    for (const { name, value } of to.attributes ?? [])
      if (from.getAttribute(name) !== value) from.setAttribute(name, value);
    const now = [...to.childNodes];
    now.forEach((node, i) => {
      // Rows change places when a dependency fails or recovers.
      const moved = node.id && [...from.children].find((child) => child.id === node.id);
      if (moved && moved !== from.childNodes[i]) from.insertBefore(moved, from.childNodes[i]);
      if (i < from.childNodes.length) morph(from.childNodes[i], node);
      else from.append(node);
    });
    while (from.childNodes.length > now.length) from.lastChild.remove();
  }

  // Screen readers announce changes of the state, not every refresh.
  function announce(text) {
    if (announcement.textContent !== text) announcement.textContent = text;
  }

  function show(html) {
    const before = status().dataset.announcement;
    const fetched = new DOMParser().parseFromString(html, "text/html").getElementById("status");
    prepare(fetched);
    morph(status(), fetched);
    const { announcement } = status().dataset;
    if (failures) announce(`The server responds again. ${announcement}`);
    else if (announcement !== before) announce(announcement);
  }

  // Shows whether the page is current: in the notice, the title, the icon of the tab and by its colours.
  function showState() {
    const isStale = failures > 0 || pausedAt !== null || isLoggedOut;
    let { label, severity } = status().dataset;
    notice.hidden = !isStale;
    notice.className = pausedAt && !isLoggedOut ? "paused" : "error";
    loginLink.hidden = !isLoggedOut;
    status().classList.toggle("stale", isStale);
    if (isLoggedOut) {
      [label, severity] = ["Logged out", "paused"];
      noticeText.replaceChildren("You have been logged out. This is the last known state, from ", updatedAt().cloneNode(true), ".");
    } else if (pausedAt) {
      [label, severity] = ["Paused", "paused"];
      noticeText.replaceChildren("Paused at ", timeElement(pausedAt), ". Press Pause again to continue. Refreshing continues after ten minutes.");
    } else if (failures) {
      [label, severity] = ["No response", "error"];
      const seconds = Math.max(0, Math.round((nextAttempt - Date.now()) / 1000));
      const data = updatedAt().cloneNode(true);
      noticeText.replaceChildren("The server does not respond. Showing data from ", data, `. Retrying in ${seconds} s.`);
    }
    document.title = `${label} | ${title}`;
    if (favicon.getAttribute("href") !== favicon.dataset[severity]) favicon.href = favicon.dataset[severity];
  }

  async function refresh() {
    if (isFetching || isLoggedOut || pausedAt || document.hidden) return;
    isFetching = true;
    clearTimeout(timer);
    let wait = INTERVAL;
    try {
      const signal = AbortSignal.timeout(Number(main.dataset.timeoutMs));
      const headers = etag ? { "If-None-Match": etag } : {};
      const response = await fetch(main.dataset.url, { signal, headers, cache: "no-store", redirect: "error" });
      if (response.status === 403) {
        isLoggedOut = true;
        announce("You have been logged out.");
      } else if (response.status === 304) {
        updatedAt().replaceWith(timeElement(new Date(response.headers.get("Date"))));
        if (failures) announce(`The server responds again. ${status().dataset.announcement}`);
        wait = 2 * INTERVAL;
      } else if (response.ok) {
        show(await response.text());
        etag = response.headers.get("ETag");
      } else throw new Error(`HTTP ${response.status}`);
      failures = 0;
    } catch {
      failures += 1;
      wait = Math.min(MAX_INTERVAL, INTERVAL * 2 ** failures);
      announce("The server does not respond.");
    } finally {
      isFetching = false;
      nextAttempt = Date.now() + wait;
      timer = setTimeout(refresh, wait);
      showState();
    }
  }

  function setPaused(isPaused) {
    pausedAt = isPaused ? new Date() : null;
    pauseButton.setAttribute("aria-pressed", isPaused);
    clearTimeout(pauseTimer);
    if (isPaused) pauseTimer = setTimeout(setPaused, MAX_PAUSE, false);
    showState();
    refresh();
  }

  pauseButton.hidden = false;
  pauseButton.addEventListener("click", () => setPaused(!pausedAt));
  main.addEventListener("click", ({ target }) => {
    if (!target.matches(".fold")) return;
    const row = target.closest("tr"), isOpen = row.classList.contains("folded");
    row.classList.toggle("folded", !isOpen);
    target.setAttribute("aria-expanded", isOpen);
    if (isOpen) unfolded.add(row.id);
    else unfolded.delete(row.id);
  });
  document.addEventListener("visibilitychange", refresh);
  setInterval(() => { if (failures && !pausedAt) showState(); }, 1000);
  prepare(document);
  showState();
  timer = setTimeout(refresh, INTERVAL);
}
