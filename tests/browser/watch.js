// What the browser tests know of a page of JupyterLab: its cells, how they run, and what an output area did over time.
(() => {
  const panel = () => window.jupyterapp?.shell?.currentWidget;
  const kernel = () => panel()?.sessionContext?.session?.kernel;
  const widget = (cell) => panel().content.widgets[cell];
  const area = (cell) => widget(cell)?.outputArea?.node;
  const now = () => performance.timeOrigin + performance.now();
  const isFinal = (node) => [...node.querySelectorAll(".nbllm-foot")].some((n) => /to\sfirst\stoken.*(→|tokens\sin)/s.test(n.textContent));
  const UNSAFE_TAGS = new Set(("script iframe img object embed form link meta svg input button video audio base area frame "
    + "template").split(" "));
  let seen = null;

  function isUnsafe(name, value) {
    if (name.startsWith("on") || name.startsWith("data-command")) return true;
    if (name === "href") return !/^(https?:|mailto:)/i.test(value);
    return /url\(|javascript:/i.test(value);
  }

  function select(node) {
    const p = node.querySelector(".jp-OutputArea-child .nbllm p");
    if (!p) return "";
    const range = document.createRange();
    range.selectNodeContents(p);
    const selection = getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
    return selection.toString();
  }

  function frame(node, before) {
    if (seen === null || seen.node !== node) return;
    const at = now();
    seen.maxGap = Math.max(seen.maxGap, at - before);
    seen.frames += 1;
    if (node.querySelector(".nbllm") && node.clientHeight > 8) seen.shown = true;
    else if (seen.shown) seen.blank += 1;
    if (seen.final === null && isFinal(node)) seen.final = Date.now(); // the clock that the kernel reads too
    const frozen = node.querySelectorAll(".jp-OutputArea-child").length - 1;
    seen.frozen = Math.max(seen.frozen, frozen);
    if (seen.final === null && seen.selected && getSelection().toString() !== seen.selected) seen.lost += 1;
    // of the first block, once another stands behind it: what a busy page still had to draw of the first is drawn
    if (seen.selecting && seen.final === null && !seen.selected && frozen >= 2) seen.selected = select(node);
    requestAnimationFrame(() => frame(node, at));
  }

  // Busy while a cell runs: the kernel's own word is idle as soon as a subshell has answered a widget.
  function status() {
    const runs = panel().content.widgets.some((w) => w.model.type === "code" && w.model.executionState === "running");
    return runs ? "busy" : kernel()?.status;
  }

  window.nbllmTest = {
    area,
    ready: () => kernel()?.status === "idle" && panel().content.widgets.length > 0 && panel().context?.isReady,
    status,
    run(cells) {
      for (const cell of cells) {
        panel().content.activeCellIndex = cell;
        panel().content.deselectAll();
        window.jupyterapp.commands.execute("notebook:run-cell");
      }
    },
    done: (cells) => cells.every((cell) => {
      const prompt = widget(cell).inputArea?.promptNode?.textContent ?? "";
      return /\[\d+\]/.test(prompt) && widget(cell).model.executionState === "idle";
    }),
    watch(cell, selecting) {
      const node = area(cell);
      const counts = { maxGap: 0, frames: 0, blank: 0, frozen: 0, lost: 0 };
      seen = { node, selecting, sizes: [], shown: false, final: null, selected: "", ...counts };
      new MutationObserver(() => {
        if (seen?.node !== node) return;
        seen.sizes.push([now(), node.textContent.length, status()]);
      }).observe(node, { childList: true, subtree: true, characterData: true });
      requestAnimationFrame(() => frame(node, now()));
    },
    hover() {
      const types = ["mouseover", "mouseenter", "focus", "toggle", "begin"];
      for (const element of document.querySelectorAll(".jp-OutputArea .nbllm *:not(.nbllm-acts *, .nbllm-copy)"))
        for (const type of types) element.dispatchEvent(new Event(type, { bubbles: true }));
    },
    unsafe() {
      const found = [];
      for (const element of document.querySelectorAll(".jp-OutputArea .nbllm *:not(.nbllm-acts *, .nbllm-copy)")) {
        if (UNSAFE_TAGS.has(element.localName)) found.push(element.outerHTML.slice(0, 200));
        for (const { name, value } of element.attributes)
          if (isUnsafe(name, value)) found.push(`${element.localName} ${name}=${value}`.slice(0, 200));
      }
      return found;
    },
    errors(cell) {
      const mimes = ["error", "stderr"].map((type) => `[data-mime-type="application/vnd.jupyter.${type}"]`);
      return [...area(cell).querySelectorAll(mimes.join())].map((e) => e.innerText.trim());
    },
    finals: () => panel().content.widgets.filter((_, i) => area(i) && isFinal(area(i))).length,
    offered: () => [...document.querySelectorAll(".jp-Completer-item .jp-Completer-match")].map((e) => e.textContent),
    grown: () => {
      let largest = 0, times = 0;
      for (const [, size, status] of seen.sizes) if (status === "busy" && size > largest) [largest, times] = [size, times + 1];
      return times;
    },
    seen: () => ({ ...seen, node: undefined }),
  };
})();
