// A photograph in, a smiling one out, over HTTP: `npx tsx edit.mts photo.jpg smiling.png`, or any runtime that has fetch.
import { readFile, writeFile } from "node:fs/promises";

interface GatewayError {
  reason: string; // stable, for programs: "queue_full", "invalid_picture"
  message: string; // for people: what was wrong, and what to do
  retryable: boolean;
  retry_after_s: number;
}

const gateway = process.env.INDOMAIN_URL ?? "http://localhost:8080";
const [photo, output] = process.argv.slice(2);

async function edit(picture: Uint8Array<ArrayBuffer>, edits: Record<string, number>): Promise<Uint8Array> {
  const form = new FormData();
  form.set("picture", new Blob([picture]));
  form.set("options", JSON.stringify({
    edits: Object.entries(edits).map(([direction, strength]) => ({ direction, strength })),
  }));
  const answer = await fetch(`${gateway}/v1/edit`, { method: "POST", headers: { accept: "image/png" }, body: form });
  if (answer.ok) return new Uint8Array(await answer.arrayBuffer());
  const error = (await answer.json()) as GatewayError;
  if (!error.retryable) throw new Error(`${error.reason}: ${error.message}`);
  await new Promise((resolve) => setTimeout(resolve, 1000 * error.retry_after_s));
  return edit(picture, edits);
}

await writeFile(output, await edit(new Uint8Array(await readFile(photo)), { smile: 1 }));
