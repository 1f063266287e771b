// Asks for the page again when the listener says that something has changed, and puts what differs in its place.
"use strict";
(() => {
  const REST = 1500, AGES = 30000, AGAIN = 10000;
  const lamp = document.getElementById("lamp");
  let last = 0, timer = 0, isStale = false;

  const say = (state, text) => { lamp.hidden = false; lamp.className = state; lamp.textContent = text; };

  function put(fresh) {
    for (const old of document.querySelectorAll("[data-live]")) {
      const part = fresh.getElementById(old.id);
      if (!part || part.innerHTML === old.innerHTML) continue;
      const log = old.querySelector("pre");
      const isAtEnd = log && log.scrollTop + log.clientHeight >= log.scrollHeight - 4;
      const focused = old.contains(document.activeElement) && document.activeElement.getAttribute("href");
      old.replaceChildren(...part.childNodes);
      if (isAtEnd) { const shown = old.querySelector("pre"); if (shown) shown.scrollTop = shown.scrollHeight; }
      if (focused) {
        const links = [...old.querySelectorAll("a")].filter((link) => link.getAttribute("href") === focused);
        if (links.length) links[0].focus({ preventScroll: true });
      }
    }
    document.title = fresh.title;
  }

  async function refresh() {
    timer = 0;
    if (document.hidden) { isStale = true; return; }
    last = Date.now();
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
      if (answer.ok) put(new DOMParser().parseFromString(await answer.text(), "text/html"));
    } catch { /* the stream says that the listener is away */ }
  }

  const soon = () => { if (!timer) timer = setTimeout(refresh, Math.max(0, last + REST - Date.now())); };

  function listen() {
    const source = new EventSource("/stream");
    source.onopen = () => say("on", "live");
    source.onmessage = soon;
    source.onerror = () => {
      say("off", "reconnecting");
      if (source.readyState === EventSource.CLOSED) setTimeout(listen, AGAIN);
    };
  }

  const log = document.querySelector("pre.log");
  if (log) log.scrollTop = log.scrollHeight;
  document.addEventListener("visibilitychange", () => { if (!document.hidden && isStale) { isStale = false; soon(); } });
  setInterval(soon, AGES);
  listen();
})();
