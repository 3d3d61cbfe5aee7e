// A copy of what the server does not have yet, in this browser, so that neither a reload nor a dead
// server loses a stroke. One's own mask only, under a name that tells nothing; gone once it is saved.

const NAME = "evenhand-drafts";

function open() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => request.result.createObjectStore("drafts");
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

async function run(mode, work) {
  const database = await open();
  try {
    return await new Promise((resolve, reject) => {
      const transaction = database.transaction("drafts", mode);
      const request = work(transaction.objectStore("drafts"));
      transaction.oncomplete = () => resolve(request.result);
      transaction.onerror = transaction.onabort = () => reject(transaction.error);
    });
  } finally {
    database.close();
  }
}

// A browser that keeps nothing (private window, policy) is no reason not to work.
export const backup = {
  keep: (key, draft) => run("readwrite", (s) => s.put(draft, key)).catch(() => undefined),
  read: (key) => run("readonly", (s) => s.get(key)).catch(() => undefined),
  drop: (key) => run("readwrite", (s) => s.delete(key)).catch(() => undefined),
};

export async function pack(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

export async function unpack(packed) {
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
