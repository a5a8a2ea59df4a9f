"use strict";
/* Adding a client, showing its configs once, and asking before what cannot be undone. */

const element = (id) => document.getElementById(id);

function showFault(id, error) {
  element(id).textContent = error ? error.message : "";
  element(id).hidden = !error;
}

function openAddDialog(create) {
  const form = element("add-form");
  form.reset();
  showFault("add-error", null);
  form.onsubmit = async (event) => {
    event.preventDefault();
    const tags = element("add-tags").value.split(",").map((tag) => tag.trim()).filter(Boolean);
    const description = element("add-description").value.trim();
    element("add-submit").disabled = true;
    try {
      const bundle = await create({ clientId: element("add-name").value.trim(), tags, ...(description ? { description } : {}) });
      element("add-dialog").close();
      openBundleDialog(bundle, `${bundle.entry.clientId} is ready`);
    } catch (error) {
      showFault("add-error", error);
    } finally {
      element("add-submit").disabled = false;
    }
  };
  element("add-cancel").onclick = () => element("add-dialog").close();
  element("add-dialog").showModal();
  element("add-name").focus();
}

/* Secrets live in this dialog alone: when it closes, texts, QR code and download links are gone. */
function openBundleDialog(bundle, title) {
  const links = [["bundle-wireguard", bundle.wireguard, ".conf"], ["bundle-smartvpn", bundle.smartvpn, ".json"]];
  const urls = links.map(([id, text, ending]) => {
    const url = URL.createObjectURL(new Blob([text], { type: "application/octet-stream" }));
    element(id).href = url;
    element(id).download = bundle.fileName + ending;
    return url;
  });
  element("bundle-title").textContent = title;
  element("bundle-qr").parentElement.hidden = !bundle.qr;
  if (bundle.qr) element("bundle-qr").src = bundle.qr;
  element("bundle-facts").replaceChildren(
    make("dt", "", "Address"), make("dd", "mono", bundle.entry.assignedIp),
    ...(bundle.entry.assignedIp6 ? [make("dt", "", "IPv6"), make("dd", "mono", bundle.entry.assignedIp6)] : []));
  element("bundle-copy").textContent = "Copy WireGuard text";
  element("bundle-copy").onclick = async () => {
    await navigator.clipboard.writeText(bundle.wireguard);
    element("bundle-copy").textContent = "Copied";
  };
  const dialog = element("bundle-dialog");
  element("bundle-done").onclick = () => dialog.close();
  dialog.onclose = () => {
    urls.forEach(URL.revokeObjectURL);
    element("bundle-qr").removeAttribute("src");
    links.forEach(([id]) => element(id).removeAttribute("href"));
    element("bundle-copy").onclick = null;
  };
  dialog.showModal();
}

function openConfirmDialog({ title, text, yes, act }) {
  const dialog = element("confirm-dialog");
  element("confirm-title").textContent = title;
  element("confirm-text").textContent = text;
  element("confirm-yes").textContent = yes;
  showFault("confirm-error", null);
  element("confirm-no").onclick = () => dialog.close();
  element("confirm-yes").onclick = async () => {
    element("confirm-yes").disabled = true;
    try {
      await act();
      dialog.close();
    } catch (error) {
      showFault("confirm-error", error);
    } finally {
      element("confirm-yes").disabled = false;
    }
  };
  dialog.showModal();
  element("confirm-no").focus();
}
