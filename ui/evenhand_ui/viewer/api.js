// Requests to this page's own server. Voxels come packed; the browser unpacks them by itself.

export class Refused extends Error {
  constructor(status, answer) {
    super(answer.error ?? "The server refused the request.");
    this.status = status;
    this.answer = answer;
  }

  // The reading on the screen is not the present one: trained anew, or judged in another window.
  get changed() { return Boolean(this.answer.changed); }
}

export class Api {
  constructor(data) {
    this.base = `${location.origin}/evenhand/case/${data.case}`;
    this.ticket = data.ticket;
    this.shown = data.draftKey;
  }

  async ask(path, options = {}) {
    const headers = {
      ...options.headers, "X-Evenhand-Ticket": this.ticket, "X-Evenhand-Reading": this.shown,
    };
    const response = await fetch(`${this.base}/${path}`, {
      ...options, headers, cache: "no-store", credentials: "same-origin",
    });
    if (response.ok) return response;
    let answer = {};
    try { answer = await response.json(); } catch { /* no sentence came with it */ }
    throw new Refused(response.status, answer);
  }

  async image(number) {
    const response = await this.ask(`image/${number}`);
    const how = JSON.parse(response.headers.get("X-Evenhand-Image"));
    return { how, numbers: new Int16Array(await response.arrayBuffer()) };
  }

  // Another study of the patient: its grid, and its image.
  async study(number) {
    const response = await this.ask(`other/${number}`);
    const { grid, ...how } = JSON.parse(response.headers.get("X-Evenhand-Image"));
    return { grid, how, numbers: new Int16Array(await response.arrayBuffer()) };
  }

  // Where the model is not sure; null: nothing was kept of that.
  async heat() {
    return this.mask("uncertainty");
  }

  async mask(which) {
    const response = await this.ask(which);
    if (response.status === 204) return null;
    return {
      box: response.headers.get("X-Evenhand-Box").split(",").map(Number),
      bytes: new Uint8Array(await response.arrayBuffer()),
      strokes: Number(response.headers.get("X-Evenhand-Strokes") ?? 0),
      revision: Number((response.headers.get("ETag") ?? "0").replaceAll(/\D/g, "")),
    };
  }

  async save({ packed, box, strokes, base }) {
    const response = await this.ask("draft", {
      method: "PUT",
      body: packed,
      headers: {
        "If-Match": `"${base}"`,
        "X-Evenhand-Box": box.join(","),
        "X-Evenhand-Strokes": String(strokes),
        "Content-Type": "application/gzip",
      },
    });
    return (await response.json()).revision;
  }

  async get(path) {
    return (await this.ask(path)).json();
  }

  // The model's answer to a prompt, as the box that holds it and its voxels.
  async suggestion(prompt) {
    const response = await this._post("prompt", prompt);
    return {
      box: response.headers.get("X-Evenhand-Box").split(",").map(Number),
      bytes: new Uint8Array(await response.arrayBuffer()),
    };
  }

  // A mask of one slice carried on: its neighbours' boxes and voxels, each when it is there; the
  // last one has a sentence instead (`end`), which is empty where nothing is to be said.
  async *carry(packed, box, signal) {
    const response = await this.ask("carry", {
      method: "POST", body: packed, signal,
      headers: { "X-Evenhand-Box": box.join(","), "Content-Type": "application/gzip" },
    });
    const reader = response.body.getReader();
    let left = new Uint8Array(0);
    const more = async () => {
      const { value, done } = await reader.read();
      if (done) throw new TypeError("The answer was cut.");
      const all = new Uint8Array(left.length + value.length);
      all.set(left);
      all.set(value, left.length);
      left = all;
    };
    for (;;) {
      while (!left.includes(10)) await more();
      const line = left.indexOf(10), part = JSON.parse(new TextDecoder().decode(left.slice(0, line)));
      left = left.slice(line + 1);
      if (part.end !== undefined) { yield part; return; }
      while (left.length < part.size) await more();
      yield { box: part.box, bytes: left.slice(0, part.size) };
      left = left.slice(part.size);
    }
  }

  async tell(path, content) {
    return (await this._post(path, content)).json();
  }

  _post(path, content) {
    return this.ask(path, {
      method: "POST",
      body: JSON.stringify(content),
      headers: { "Content-Type": "application/json" },
    });
  }
}
