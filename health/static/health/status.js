// Refreshes the status page: fetches the fragment that changes, and applies only the differences.
"use strict";
{
  const INTERVAL = 2000, MAX_INTERVAL = 30000; // milliseconds; the interval doubles while the server does not respond
  const main = document.getElementById("content-main");
  const announcement = document.getElementById("status-announcement");
  const notice = document.getElementById("status-stale");
  const noticeText = document.getElementById("status-stale-text");
  const pauseButton = document.getElementById("status-pause");
  const title = document.title;
  let failures = 0, nextAttempt = 0, timer, isPaused = false, isFetching = false;

  const status = () => document.getElementById("status");

  // On narrow screens a row is a card. Its cells need their column's name, and explicit roles, because some browsers
  // drop the semantics of a table with display: block.
  function annotateTables(root) {
    for (const table of root.querySelectorAll("table")) {
      const labels = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
      table.setAttribute("role", "table");
      for (const section of [table.tHead, ...table.tBodies]) section.setAttribute("role", "rowgroup");
      for (const row of table.rows) {
        row.setAttribute("role", "row");
        for (const cell of row.cells) {
          cell.setAttribute("role", { col: "columnheader", row: "rowheader" }[cell.scope] ?? "cell");
          if (cell.colSpan === 1) cell.dataset.label = labels[cell.cellIndex];
        }
      }
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
    const old = [...from.childNodes], now = [...to.childNodes];
    old.slice(now.length).forEach((node) => node.remove());
    now.forEach((node, i) => (i < old.length ? morph(old[i], node) : from.append(node)));
  }

  // Screen readers announce changes of the state, not every refresh.
  function announce(text) {
    if (announcement.textContent !== text) announcement.textContent = text;
  }

  function show(html) {
    const before = status().dataset.announcement;
    const fetched = new DOMParser().parseFromString(html, "text/html").getElementById("status");
    annotateTables(fetched);
    morph(status(), fetched);
    const { announcement } = status().dataset;
    if (failures) announce(`The server responds again. ${announcement}`);
    else if (announcement !== before) announce(announcement);
    failures = 0;
  }

  function showNotice() {
    notice.hidden = failures === 0;
    status().classList.toggle("stale", failures > 0);
    const time = status().querySelector("time").textContent;
    const seconds = Math.max(0, Math.round((nextAttempt - Date.now()) / 1000));
    if (failures)
      noticeText.textContent = `The server does not respond. Last updated at ${time} UTC. Retrying in ${seconds} s.`;
    const label = failures ? "No response" : status().dataset.label;
    document.title = `${label} | ${title}`;
  }

  async function refresh() {
    if (isFetching || isPaused || document.hidden) return;
    isFetching = true;
    clearTimeout(timer);
    try {
      const signal = AbortSignal.timeout(Number(main.dataset.timeoutMs));
      const response = await fetch(main.dataset.url, { signal, cache: "no-store", redirect: "error" });
      if (response.status === 403) return location.replace(main.dataset.loginUrl);
      if (!response.ok) throw new Error(`HTTP ${response.status}`);
      show(await response.text());
    } catch {
      failures += 1;
      announce("The server does not respond.");
    } finally {
      isFetching = false;
      const wait = Math.min(MAX_INTERVAL, INTERVAL * 2 ** failures);
      nextAttempt = Date.now() + wait;
      timer = setTimeout(refresh, wait);
      showNotice();
    }
  }

  pauseButton.hidden = false;
  pauseButton.addEventListener("click", () => {
    isPaused = !isPaused;
    pauseButton.textContent = isPaused ? "Resume" : "Pause";
    refresh();
  });
  document.addEventListener("visibilitychange", refresh);
  setInterval(() => { if (failures) showNotice(); }, 1000);
  annotateTables(document);
  showNotice();
  timer = setTimeout(refresh, INTERVAL);
}
