// What the browser tests know of a page of JupyterLab: its cells, how they run, and what an output area did over time.
(() => {
  const panel = () => window.jupyterapp?.shell?.currentWidget;
  const kernel = () => panel()?.sessionContext?.session?.kernel;
  const widget = (cell) => panel().content.widgets[cell];
  const area = (cell) => widget(cell)?.outputArea?.node;
  const now = () => performance.timeOrigin + performance.now();
  const isFinal = (node) => [...node.querySelectorAll(".nbllm-foot")].some((n) => /to\sfirst\stoken/.test(n.textContent));
  let seen = null;

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
    if (seen.selecting && seen.final === null && !seen.selected && frozen >= 1) seen.selected = select(node);
    requestAnimationFrame(() => frame(node, at));
  }

  window.nbllmTest = {
    area,
    ready: () => kernel()?.status === "idle" && panel().content.widgets.length > 0 && panel().context?.isReady,
    status: () => kernel()?.status,
    run(cells) {
      for (const cell of cells) {
        panel().content.activeCellIndex = cell;
        panel().content.deselectAll();
        window.jupyterapp.commands.execute("notebook:run-cell");
      }
    },
    done: (cells) => cells.every((c) => !["*", ""].includes((widget(c).inputArea?.promptNode?.textContent ?? "").replace(/[[\]:\s]/g, ""))
      && widget(c).model.executionState === "idle"),
    watch(cell, selecting) {
      const node = area(cell);
      seen = { node, selecting, sizes: [], outputs: [], maxGap: 0, frames: 0, blank: 0, shown: false, final: null, frozen: 0, selected: "", lost: 0 };
      new MutationObserver(() => {
        if (seen?.node !== node) return;
        seen.sizes.push([now(), node.textContent.length, kernel()?.status]);
        seen.outputs.push(node.querySelectorAll(".jp-OutputArea-output").length);
      }).observe(node, { childList: true, subtree: true, characterData: true });
      requestAnimationFrame(() => frame(node, now()));
    },
    hover() {
      for (const element of document.querySelectorAll(".jp-OutputArea .nbllm *"))
        for (const type of ["mouseover", "mouseenter", "focus", "toggle", "begin"]) element.dispatchEvent(new Event(type, { bubbles: true }));
    },
    unsafe() {
      const tags = "script,iframe,img,object,embed,form,link,meta,svg,input,button,video,audio,base,area,frame,template";
      const found = [...document.querySelectorAll(".jp-OutputArea .nbllm :is(" + tags + ")")].map((e) => e.outerHTML.slice(0, 200));
      for (const e of document.querySelectorAll(".jp-OutputArea .nbllm *"))
        for (const { name, value } of e.attributes)
          if (name.startsWith("on") || name.startsWith("data-command") || (name === "href" && !/^(https?:|mailto:)/i.test(value)) || /url\(|javascript:/i.test(name === "href" ? "" : value))
            found.push(`${e.tagName} ${name}=${value}`.slice(0, 200));
      return found;
    },
    errors: (cell) => [...area(cell).querySelectorAll('[data-mime-type="application/vnd.jupyter.error"], [data-mime-type="application/vnd.jupyter.stderr"]')]
      .map((e) => e.innerText.trim()),
    finals: () => panel().content.widgets.filter((_, i) => area(i) && isFinal(area(i))).length,
    offered: () => [...document.querySelectorAll(".jp-Completer-item")].map((e) => e.querySelector(".jp-Completer-match")?.textContent ?? e.textContent),
    grown: () => {
      let largest = 0, times = 0;
      for (const [, size, status] of seen.sizes) if (status === "busy" && size > largest) [largest, times] = [size, times + 1];
      return times;
    },
    seen: () => ({ ...seen, node: undefined }),
  };
})();
