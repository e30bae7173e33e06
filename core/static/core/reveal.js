// Masks the values after some time without input, when the login ends, and when the page is left, because the browser's
// back/forward cache would otherwise keep showing them.
"use strict";
{
  const list = document.querySelector("[data-mask-after]");
  let lastInput = Date.now(), isMasked = false;

  function mask() {
    if (isMasked) return;
    isMasked = true;
    for (const element of list.querySelectorAll("[data-phi]")) element.textContent = "●●●●●●";
    document.getElementById("masked-notice").hidden = false;
  }

  // Compares times, because timers stand still in a hidden tab and while the computer sleeps.
  function check() {
    if (Date.now() - lastInput >= 1000 * list.dataset.maskAfter) mask();
  }

  function onInput() {
    check(); // first: it may be the first input after a sleep
    lastInput = Date.now();
  }

  for (const type of ["keydown", "pointerdown", "pointermove", "scroll", "wheel"])
    addEventListener(type, onInput, { capture: true, passive: true });
  for (const type of ["pagehide", "sessionend"]) addEventListener(type, mask); // session.js sends `sessionend`
  document.addEventListener("freeze", mask); // Chromium is about to stop all timers of a hidden tab
  document.addEventListener("visibilitychange", check);
  setInterval(check, 1000);
}
