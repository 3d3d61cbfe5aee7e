// Buttons and fields around the planes. Built here, wired by `app.js` through `on`.

export const TOOLS = [
  { id: "look", text: "Look", key: "V", title: "Move the crosshair" },
  { id: "window", text: "Window", key: "W", title: "Drag: window and level" },
  { id: "ruler", text: "Ruler", key: "M", title: "Drag: measure a length" },
  { id: "brush", text: "Brush", key: "B", title: "Paint" },
  { id: "eraser", text: "Eraser", key: "E", title: "Erase" },
  { id: "threshold", text: "Like this", key: "T",
    title: "Paint only what is about as bright as where you start" },
  { id: "polygon", text: "Polygon", key: "P",
    title: "Click corners, Enter closes, Backspace takes one back, Shift+Enter erases inside" },
  { id: "fill", text: "Fill", key: "F", title: "Fill a closed outline" },
  { id: "box", text: "Box", key: "A", title: "Drag a box: the model suggests a mask within it" },
  { id: "points", text: "Points", key: "Q",
    title: "Click what is inside, with Shift what is outside: the model suggests a mask" },
];

const CT_PRESETS = [
  ["Soft tissue", 40, 400], ["Brain", 40, 80], ["Liver", 60, 160], ["Lung", -600, 1500],
  ["Bone", 400, 1800],
];

export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// Where the modality is unknown, air and bone give a CT away.
export function presetsOf(how, modality) {
  const own = ["As opened", how.level, how.width];
  if (modality === "CT" || (!modality && how.low < -300 && how.high > 300)) return [own, ...CT_PRESETS];
  const all = Math.max(how.high - how.low, 1e-6);
  return [own, ["More contrast", how.level, how.width * 0.6],
    ["Less contrast", how.level, how.width * 1.6], ["Whole range", how.low + all / 2, all]];
}

function button(text, title, on, more = {}) {
  return el("button", { type: "button", title, onclick: on, ...more }, text);
}

export class Panel {
  constructor(data, on) {
    this.data = data;
    this.on = on;
    this.root = el("div", { class: "evenhand" });
    this.planes = el("div", { class: "planes" });
    this.status = el("span", { class: "status", role: "status" });
    this.notice = el("div", { class: "notice", role: "alert", hidden: true });
    this.side = el("div", { class: "side" });
    this.root.append(
      this._toolbar(), this.notice, el("div", { class: "desk" }, this.planes, this.side),
    );
    // The decision before how it is shown: on a small screen it would lie below the edge.
    this.side.append(
      this._suggestion(), this._progress(), this._lesions(), this._decision(), this._display(),
    );
  }

  _toolbar() {
    const locked = this.data.readonly;
    this.tools = Object.fromEntries(TOOLS.map(({ id, text, key, title }) => [
      id,
      button(text, `${title} (${key})`, () => this.on.tool(id), {
        "aria-pressed": "false", "data-tool": id, "data-what": `${title} (${key})`,
        disabled: locked && !["look", "window", "ruler"].includes(id),
      }),
    ]));
    this.undo = button("Undo", "Undo (Ctrl+Z)", this.on.undo, { disabled: true });
    this.redo = button("Redo", "Redo (Ctrl+Y)", this.on.redo, { disabled: true });
    this.size = el("output", { class: "size" });
    const brush = el("span", { class: "group" },
      button("-", "Smaller brush ([)", () => this.on.size(-1), { "aria-label": "Smaller brush" }),
      this.size,
      button("+", "Larger brush (])", () => this.on.size(1), { "aria-label": "Larger brush" }));
    this.carry = button("Carry on", "", this.on.carry, { disabled: true, "data-what":
      "Suggest the same on the slices beside this one: the model's answer, or your mask here (G)" });
    return el("div", { class: "toolbar", role: "toolbar", "aria-label": "Tools" },
      el("span", { class: "group" }, ...Object.values(this.tools)), brush,
      el("span", { class: "group" },
        button("Between slices", "Fill the slices between two drawn ones (I)",
          this.on.interpolate, { disabled: locked }),
        this.carry, this.undo, this.redo,
        button("Back to proposal", "Undo all at once; can itself be undone",
          this.on.revert, { disabled: locked })),
      el("span", { class: "group" },
        button("Keyboard", "A cursor that arrows move; Space draws (K)", this.on.cursor),
        button("Swap planes", "Another plane becomes the large one (X)", this.on.swap),
        button("Whole picture", "Zoom and position as at first (0)", this.on.fit)),
      this.status);
  }

  // What the model answered to a prompt, or why it cannot be asked.
  _suggestion() {
    this.model = el("p", { class: "model", role: "status" });
    this.suggested = el("span", { role: "status" });
    this.suggestion = el("div", { class: "suggestion", hidden: true },
      el("span", {}, el("i", { class: "swatch suggested" }), this.suggested),
      el("div", { class: "row" },
        button("Take", "Add it to your mask (Enter)", () => this.on.take(false)),
        button("Replace", "Put it in the place of your mask on this slice (Shift+Enter)",
          () => this.on.take(true)),
        button("Drop", "Throw it away (Backspace)", this.on.discard)));
    this.walked = el("span", { role: "status" });
    this.walk = el("div", { class: "walk", hidden: true },
      el("progress", { "aria-label": "Carrying on" }), this.walked,
      button("Stop", "Keep what there is (Backspace)", this.on.stop));
    return el("section", { class: "asked" }, this.model, this.walk, this.suggestion);
  }

  _progress() {
    this.bar = el("progress", { max: 1, value: 0, "aria-label": "Slices with tumour seen" });
    this.seen = el("p", { class: "seen" });
    this.unseen = button("Next unseen slice", "Next slice with tumour not yet seen (N)",
      this.on.unseen);
    this.volumes = el("p", { class: "volumes" });
    return el("section", {}, this.bar, this.seen, this.unseen, this.volumes);
  }

  _lesions() {
    this.lesionCount = el("p", { class: "count" });
    this.lesions = el("ol", { class: "lesions", "aria-label": "Lesions of the mask" });
    return el("section", {}, this.lesionCount, this.lesions);
  }

  _display() {
    this.hide = button("Hide masks", "Hide or show all masks (H)", this.on.hide,
      { "aria-pressed": "false" });
    this.style = button("Fill", "Outline or fill (O)", this.on.style);
    this.opacity = el("input", { type: "range", min: 10, max: 100, value: 90,
      "aria-label": "Mask opacity", oninput: (e) => this.on.opacity(Number(e.target.value)) });
    this.proposal = el("input", { type: "checkbox", checked: true,
      onchange: (e) => this.on.proposal(e.target.checked) });
    const kept = this.data.uncertainty;
    this.heat = el("input", { type: "checkbox", disabled: !kept, onchange: this.on.heat });
    this.legend = el("div", { class: "legend", hidden: true },
      el("span", {}, "surer"), el("i", {}), el("span", {}, "not sure"));
    this.preset = el("select", { "aria-label": "Window preset",
      onchange: (e) => this.on.preset(Number(e.target.value)) });
    this.windowText = el("output", { class: "window" });
    const names = this.data.sequences;
    this.sequence = el("select", { "aria-label": "Sequence",
      onchange: (e) => this.on.sequence(Number(e.target.value)) },
      ...names.map((name, n) => el("option", { value: n }, name)));
    const { others } = this.data;
    this.other = el("select", { "aria-label": "Another study of the patient beside it",
      onchange: (e) => this.on.other(e.target.value === "" ? null : Number(e.target.value)) },
      el("option", { value: "" }, "none"),
      ...others.map((name, n) => el("option", { value: n }, name)));
    this.tolerance = el("input", { type: "range", min: 2, max: 50, value: 12,
      "aria-label": "Tolerance of Like this" });
    return el("section", {},
      el("div", { class: "row" }, this.hide, this.style),
      el("label", {}, "Opacity", this.opacity),
      el("label", { class: "check" }, this.proposal,
        el("i", { class: "swatch proposed" }), "Proposal",
        el("i", { class: "swatch mine" }), "Mine"),
      el("label", { class: "check", title: kept ? "Where the model is not sure (U). Not calibrated."
        : "This run has kept no probabilities" }, this.heat, "Uncertainty"), this.legend,
      ...(names.length > 1 ? [el("label", {}, "Sequence", this.sequence)] : []),
      ...(others.length ? [el("label", { title: "Y" }, "Beside", this.other)] : []),
      el("label", {}, "Grey", this.preset), this.windowText,
      el("label", { class: "tolerance", hidden: true }, "Tolerance", this.tolerance));
  }

  _decision() {
    this.reason = el("select", { "aria-label": "Reason", onchange: this.on.form },
      el("option", { value: "" }, "Reason: none"),
      ...this.data.reasons.map(([code, text]) => el("option", { value: code }, text)));
    this.comment = el("textarea", { rows: 2, maxlength: this.data.commentLimit,
      "aria-label": "Comment", oninput: this.on.form, placeholder: "Comment. No names, no identifiers." });
    const say = (verdict, text, title) =>
      button(text, title, () => this.on.decide(verdict), { "data-verdict": verdict });
    this.verdicts = {
      accept: say("accept", "Accept", "The proposal is right as it is (Ctrl+Enter)"),
      correct: say("correct", "Record correction", "Your mask replaces the proposal (Ctrl+Enter)"),
      reject: say("reject", "Reject", "The proposal is wrong; needs a reason"),
      "cannot-judge": say("cannot-judge", "Cannot judge", "You cannot tell; needs a reason"),
    };
    this.why = el("p", { class: "why" });
    return el("section", { class: "decision" }, this.reason, this.comment,
      el("div", { class: "verdicts" }, ...Object.values(this.verdicts)), this.why);
  }

  say(text, kind = "") {
    this.status.textContent = text;
    this.status.dataset.kind = kind;
  }

  // A message that stays until it is answered; actions: [[text, what to do]].
  alert(text, actions = []) {
    this.notice.hidden = !text;
    this.notice.replaceChildren(text ?? "", ...actions.map(([label, work]) =>
      button(label, "", () => { this.alert(null); work(); })));
  }
}
