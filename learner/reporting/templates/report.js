// A report has all that it shows in itself, packed.
async function unpack(script) {
  const bytes = Uint8Array.from(atob(script.textContent), (c) => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

async function start() {
  if (!("DecompressionStream" in window)) {
    get("#notice").textContent = "This browser is too old to unpack the transitions (it has no DecompressionStream).";
    return;
  }
  colours = JSON.parse(get("#index").dataset.colours);
  const packed = (part) => get(`script[data-step="${part}"]`);
  begin({ block: (part) => unpack(packed(part)) }, itemsOf(await unpack(get("#index"))));
}

if (get("#index")) start();
