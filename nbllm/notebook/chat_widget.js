// The chat panel in the page. It lives in a placeholder of a plain HTML output, so that what a notebook saves is static;
// all HTML that comes from the kernel is made safe there, and nothing else is ever put in as HTML.

function build(model) {
  const root = element("div", "nbllm nbllm-chat tex2jax_ignore mathjax_ignore");
  root.dataset.lmSuppressShortcuts = "true"; // keys typed here are no commands of the notebook
  element("div", "", root).innerHTML = model.get("style");

  const top = element("div", "nbllm-bar", root);
  const picker = element("input", "nbllm-model", top);
  picker.setAttribute("aria-label", "Model");
  picker.spellcheck = false;
  const known = element("datalist", "", top);
  known.id = `${model.get("place")}-models`;
  picker.setAttribute("list", known.id);
  const meter = element("span", "nbllm-meter", top);

  const list = element("div", "nbllm-turns tex2jax_ignore mathjax_ignore", root);
  list.tabIndex = 0;
  list.setAttribute("role", "log");
  const past = element("div", "", list);
  const live = element("div", "nbllm-live", list);
  const asked = element("div", "nbllm-you", live);
  const done = element("div", "nbllm-answer", live);
  const tail = element("div", "nbllm-answer", live);
  const status = element("div", "nbllm-foot", live);
  const question = element("div", "nbllm-question", live);

  const chips = element("div", "nbllm-chips", root);
  const composer = element("div", "nbllm-composer", root);
  const area = element("textarea", "", composer);
  area.rows = 2;
  area.placeholder = "Ask. Enter sends, Shift+Enter is a new line, Escape stops.";
  area.setAttribute("aria-label", "Message");
  const chooser = element("input", "", root);
  chooser.type = "file";
  chooser.multiple = true;
  chooser.hidden = true;
  button("📎", "Attach files", composer, () => chooser.click());
  const act = button("Send", "Send", composer, () => (model.get("busy") ? stop() : send()));

  const note = element("div", "nbllm-note nbllm-warn", root);
  note.hidden = true;

  let files = [];
  let sending = null; // what was sent and is not taken yet: what is typed meanwhile waits in its place
  function told(why) {
    note.textContent = why;
    note.hidden = !why;
  }
  function giveBack(why) {
    if (sending) {
      area.value = [sending.text, area.value].filter(Boolean).join("\n");
      files = [...sending.files, ...files];
      sending = null;
      showFiles();
    }
    told(why);
  }
  function stop() {
    model.send({ type: "stop" });
  }
  async function send() {
    const text = area.value;
    if (sending || model.get("busy") || (!text.trim() && !files.length)) return;
    const sent = { text, files };
    sending = sent;
    area.value = "";
    files = [];
    showFiles();
    told("");
    try {
      const buffers = await Promise.all(sent.files.map((f) => f.arrayBuffer()));
      model.send({ type: "send", text, files: sent.files.map((f) => ({ name: f.name, kind: f.type })) }, undefined, buffers);
    } catch (error) {
      sending = sent;
      giveBack(`Not sent: ${error}`);
    }
  }
  function add(more) {
    files = [...files, ...more];
    showFiles();
  }
  function showFiles() {
    chips.replaceChildren();
    files.forEach((file, i) => {
      const chip = element("span", "nbllm-chip", chips, file.name);
      button("×", `Leave out ${file.name}`, chip, () => {
        files.splice(i, 1);
        showFiles();
      });
    });
  }
  chooser.addEventListener("change", () => {
    add([...chooser.files]);
    chooser.value = "";
  });
  area.addEventListener("paste", (event) => add([...(event.clipboardData?.files ?? [])]));
  area.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      send();
    } else if (event.key === "Escape" && model.get("busy")) {
      event.preventDefault();
      stop();
    }
  });
  picker.addEventListener("keydown", (event) => event.stopPropagation());
  picker.addEventListener("change", () => {
    model.set("model", picker.value.trim());
    model.save_changes();
  });

  // The place is kept at the end while it stands there, as in a terminal.
  function following(change) {
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
    const settle = () => atEnd && (list.scrollTop = list.scrollHeight);
    change();
    settle();
    if (list.isConnected) typeset(model, list).then(settle);
  }
  function turnNode(turn, last) {
    const node = element("div", "nbllm-turn");
    node.dataset.key = turn.key;
    element("div", "nbllm-you", node).innerHTML = turn.asked;
    element("div", "nbllm-answer", node).innerHTML = turn.answer;
    const acts = element("div", "nbllm-acts", node);
    button("Copy", "Copy the answer", acts, (node) => copy(turn.source, node));
    if (last) button("Retry", "Ask this again", acts, () => model.send({ type: "retry" }));
    return node;
  }
  function showTurns() {
    const turns = model.get("turns");
    const old = new Map([...past.children].map((node) => [node.dataset.key, node]));
    following(() => past.replaceChildren(...turns.map((turn, i) => {
      const last = i === turns.length - 1;
      const key = turn.key + (last ? "+" : "");
      return old.get(key) ?? turnNode({ ...turn, key }, last);
    })));
  }
  let shown = "";
  function showLive() {
    const now = model.get("done");
    following(() => {
      asked.innerHTML = model.get("asked");
      if (now.startsWith(shown)) done.insertAdjacentHTML("beforeend", now.slice(shown.length));
      else done.innerHTML = now;
      shown = now;
      tail.innerHTML = model.get("tail");
      status.textContent = model.get("status");
    });
  }
  // A question before a tool runs: what would run, and a button for each answer.
  function showQuestion() {
    const now = model.get("question");
    following(() => {
      question.replaceChildren();
      if (!now.id) return;
      element("div", "nbllm-answer", question).innerHTML = now.html;
      const acts = element("div", "nbllm-asks", question);
      element("span", "", acts, now.words);
      for (const [answer, text, title] of now.choices) {
        button(text, title, acts, () => {
          question.replaceChildren();
          model.send({ type: "answer", id: now.id, answer });
        });
      }
    });
  }
  function showBusy() {
    const busy = model.get("busy");
    live.hidden = !busy;
    act.textContent = busy ? "■ Stop" : "Send";
    act.title = busy ? "Stop the answer (Escape)" : "Send (Enter)";
    act.setAttribute("aria-label", busy ? "Stop" : "Send");
  }
  function showRest() {
    if (document.activeElement !== picker) picker.value = model.get("model");
    meter.textContent = model.get("meter");
    known.replaceChildren(...model.get("models").map((name) => {
      const option = document.createElement("option");
      option.value = name;
      return option;
    }));
  }
  model.on("msg:custom", (message) => {
    if (message.type === "refused") giveBack(message.why);
  });
  model.on("change:question", showQuestion);
  model.on("change:turns", () => {
    sending = null;
    showTurns();
  });
  for (const name of ["asked", "done", "tail", "status"]) model.on(`change:${name}`, showLive);
  model.on("change:busy", () => {
    sending = null;
    showBusy();
  });
  for (const name of ["model", "meter", "models"]) model.on(`change:${name}`, showRest);
  showTurns();
  showLive();
  showBusy();
  showQuestion();
  showRest();
  list.scrollTop = list.scrollHeight;
  return root;
}

// Called once when the kernel makes the panel, without a view: the panel is put where its placeholder stands, and again
// whenever the page draws that anew. The static transcript is hidden as long as the panel is there.
function initialize({ model }) {
  const place = model.get("place");
  if (!model.get("placed")) return undefined;
  const root = build(model);
  const hide = element("style", "", document.head, `.${place}-static{display:none}`);
  function mount() {
    const spot = document.getElementById(place);
    if (spot && root.parentNode !== spot) {
      spot.replaceChildren(root);
      const list = root.querySelector(".nbllm-turns");
      typeset(model, list).then(() => (list.scrollTop = 1e9));
    }
  }
  const watcher = new MutationObserver(mount);
  watcher.observe(document.body, { childList: true, subtree: true });
  mount();
  return () => {
    watcher.disconnect();
    root.remove();
    hide.remove();
  };
}

// As an ordinary view, for front ends that make widgets only where a view is shown.
function render({ model, el }) {
  const root = build(model);
  el.append(root);
  requestAnimationFrame(() => typeset(model, root.querySelector(".nbllm-turns")));
}

export default { initialize, render };
