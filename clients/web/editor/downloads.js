// @ts-check
// The download dialog: the edited face, the whole photograph with the face in it, or the edit file.

import { editFile } from "../state/edit_file.js";
import { encodedEdits } from "../state/edits.js";
import { photographBase64, save } from "../state/pictures.js";
import { ask, byId } from "../ui/elements.js";

/**
 * @typedef {import("../state/source.js").Source} Source
 * @typedef {import("../state/edits.js").Edits} Edits
 */

export class Downloads {
  /**
   * @param {import("../gateway/gateway.js").Gateway} gateway
   * @param {import("../state/editing.js").Editing} editing
   * @param {(error: any) => void} onError
   */
  constructor(gateway, editing, onError) {
    this.gateway = gateway;
    this.editing = editing;
    this.onError = onError;
    byId("download").addEventListener("click", () => this.#open());
  }

  #open() {
    const { source } = this.editing;
    if (!source) return;
    ask(/** @type {HTMLDialogElement} */ (byId("download-dialog")), (close) => {
      byId("download-photograph").hidden = !source.isPart;
      byId("download-everybody").hidden = source.faces < 2;
      byId("download-close").onclick = () => close(null);
      byId("download-picture").onclick = () => (close(null), this.#savePicture(source, this.editing.edits).catch(this.onError));
      byId("download-photograph").onclick = () => (close(null), this.#savePhotograph(source, this.editing.edits, source.align).catch(this.onError));
      byId("download-everybody").onclick = () => (close(null), this.#savePhotograph(source, this.editing.edits, { all_faces: true }).catch(this.onError));
      byId("download-edit").onclick = () => (close(null), save(editFile(source, this.editing.edits), `${source.name}.edit.json`));
    });
  }

  /**
   * The edited face, as PNG.
   * @param {Source} source
   * @param {Edits} edits
   */
  async #savePicture({ bundle, code, name }, edits) {
    const body = { bundle: bundle.name, code, ...encodedEdits(edits) };
    save(await this.gateway.postForPicture("edit", body), `${name}.png`);
  }

  /**
   * The photograph with the edited face in its place, or with all faces, in the photograph's own size.
   * @param {Source} source
   * @param {Edits} edits
   * @param {import("../state/messages.js").Align | undefined} align  which faces are edited
   */
  async #savePhotograph({ photograph, bundle, name }, edits, align) {
    if (!photograph) return;
    const picture = { data: await photographBase64(photograph) };
    const body = { bundle: bundle.name, picture, align, ...encodedEdits(edits), output: { include_pasted: true } };
    save(await this.gateway.postForPicture("edit", body), `${name}, edited.png`);
  }
}
