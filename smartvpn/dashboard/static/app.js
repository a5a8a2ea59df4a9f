"use strict";
/* The page: one stream of pictures from the server, drawn as they come; commands go out as requests. */

const chart = new TrafficChart(element("chart"), 300);
const view = { search: "", show: "all", offset: 0 };
const lines = new Map(); // client id -> the rates of its last minute
let csrf = "";
let stream = null;

// ---- the server ----

async function ask(path, body) {
  const answer = await fetch(path, body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json", "X-CSRF-Token": csrf }, body: JSON.stringify(body),
  });
  if (answer.status === 401) location.assign("/login");
  const value = await answer.json();
  if (!answer.ok) throw new Error(value.error || `the server answered ${answer.status}`);
  return value;
}

function follow() {
  if (stream) stream.close();
  stream = new EventSource(`/api/events?${new URLSearchParams(view)}`);
  stream.onmessage = (message) => draw(JSON.parse(message.data));
  stream.addEventListener("over", () => location.assign("/login"));
  stream.onerror = () => {
    banner("The dashboard's server does not answer. Trying again …");
    if (stream.readyState === EventSource.CLOSED) setTimeout(() => ask("/api/session").then(follow).catch(() => setTimeout(follow, 3000)), 3000);
  };
}

function banner(text) {
  element("banner").textContent = text || "";
  element("banner").hidden = !text;
}

// ---- the overview ----

function draw(picture) {
  banner(picture.error && `The hub cannot be reached: ${picture.error}`);
  drawHub(picture);
  if (picture.history) chart.reset(picture.history);
  else if (picture.statistics) chart.add([picture.now, picture.sent, picture.received]);
  if (picture.rows) drawRows(picture);
}

function drawHub(picture) {
  const hub = picture.hub, statistics = picture.statistics, state = picture.error ? "unreachable" : hub ? hub.state : "stopped";
  element("hub-state").textContent = { connected: "running", disconnected: "stopped" }[state] || state;
  element("hub-state").className = `pill ${state === "connected" ? "good" : "bad"}`;
  element("hub-address").textContent = hub && hub.serverAddr ? `${hub.serverAddr} · ${hub.transport}` : "";
  element("online").textContent = picture.error ? "–" : picture.online;
  element("registered").textContent = picture.error || picture.registered === null ? "\u00a0" : `of ${picture.registered} registered`;
  element("rate-sent").textContent = statistics ? bits(picture.sent) : "–";
  element("rate-received").textContent = statistics ? bits(picture.received) : "–";
  element("total-sent").textContent = statistics ? `${bytes(statistics.bytesSent)} in all` : "\u00a0";
  element("total-received").textContent = statistics ? `${bytes(statistics.bytesReceived)} in all` : "\u00a0";
  element("uptime").textContent = statistics ? duration(statistics.uptimeSeconds) : "–";
  element("connections").textContent = statistics ? `${statistics.totalConnections} connection${statistics.totalConnections === 1 ? "" : "s"} so far` : "\u00a0";
}

// ---- the table ----

function drawRows(picture) {
  const body = element("clients").tBodies[0], known = new Map([...body.rows].map((row) => [row.dataset.client, row]));
  const wanted = picture.rows.map((client) => drawRow(known.get(client.entry.clientId) || newRow(client), client));
  for (const id of lines.keys()) if (!picture.rows.some((client) => client.entry.clientId === id)) lines.delete(id);
  if (wanted.length !== body.rows.length || wanted.some((row, index) => row !== body.rows[index])) body.replaceChildren(...wanted);
  element("clients").hidden = wanted.length === 0;
  element("empty").hidden = wanted.length > 0;
  element("empty").textContent = picture.error ? "No hub to ask." : picture.registered === null ? "Reading the registry …" : picture.registered ? "No client matches." : "No clients yet. Add the first one: it takes a name and a second.";
  const last = picture.offset + wanted.length;
  element("pages").hidden = picture.found <= picture.page;
  element("page").textContent = `${picture.offset + 1}–${last} of ${picture.found}`;
  element("previous").disabled = picture.offset === 0;
  element("next").disabled = last >= picture.found;
}

function newRow(client) {
  const row = make("tr"), id = client.entry.clientId;
  row.dataset.client = id;
  for (const name of ["name", "address mono", "connection wide", "traffic", "link", "actions"]) row.append(make("td", name));
  row.cells[5].append(menu(id));
  return row;
}

function drawRow(row, client) {
  const entry = client.entry, session = client.sessions[0], state = client.expired ? "expired" : !entry.enabled ? "disabled" : session ? "online" : "offline";
  row.className = state;
  const tags = (entry.tags || []).map((tag) => make("span", "tag", tag));
  row.cells[0].replaceChildren(make("div", "client", make("i", `dot ${state}`), make("span", "id", entry.clientId), ...tags),
    make("div", "muted small", entry.description || (state === "online" ? `for ${duration(Date.now() / 1000 - Date.parse(session.connectedSince) / 1000)}` : state)));
  row.cells[1].replaceChildren(make("div", "", entry.assignedIp), make("div", "muted small", entry.assignedIp6 || ""));
  row.cells[2].replaceChildren(...(session ? [make("div", "", { websocket: "WebSocket", quic: "QUIC", wireguard: "WireGuard" }[session.transport] || session.transport,
    client.sessions.length > 1 ? ` +${client.sessions.length - 1}` : ""), make("div", "muted small mono", session.remoteAddr)] : [make("span", "muted", "–")]));
  drawTraffic(row.cells[3], client, session);
  row.cells[4].replaceChildren(...linkOf(client, session));
  row.cells[5].firstChild.dataset.enabled = entry.enabled;
  return row;
}

function drawTraffic(cell, client, session) {
  const line = lines.get(client.entry.clientId) || [];
  line.push(client.sent + client.received);
  lines.set(client.entry.clientId, line.slice(-60));
  if (!session) { cell.replaceChildren(make("span", "muted", "–")); return; }
  const sum = (name) => client.sessions.reduce((total, one) => total + one[name], 0);
  cell.replaceChildren(make("div", "rates", sparkline(lines.get(client.entry.clientId)),
    make("div", "numbers", make("span", "sent", `↓ ${bits(client.sent)}`), make("span", "received", `↑ ${bits(client.received)}`))),
  make("div", "muted small", `${bytes(sum("bytesSent"))} ↓  ${bytes(sum("bytesReceived"))} ↑`));
}

function linkOf(client, session) {
  if (!session) return [make("span", "muted", "–")];
  const telemetry = client.telemetry, quality = telemetry && telemetry.quality;
  const drops = telemetry ? telemetry.packetsDropped : 0, lost = drops ? ` · ${drops} dropped` : "";
  if (!quality) return [make("span", "pill", session.transport === "wireguard" ? "not measured" : "measuring …"), make("div", "muted small", lost.slice(3))];
  const grade = { healthy: "good", degraded: "fair", critical: "bad" }[quality.linkHealth];
  return [make("span", `pill ${grade}`, quality.linkHealth),
    make("div", "muted small", `${milliseconds(quality.srttMs)} ± ${milliseconds(quality.jitterMs)} · ${(quality.lossRatio * 100).toFixed(1)} % loss${lost}`)];
}

// ---- commands ----

function menu(id) {
  const details = make("details", "menu");
  const summary = make("summary", "quiet", "⋯");
  summary.setAttribute("aria-label", `Actions for ${id}`);
  const list = make("div", "menu-list");
  details.append(summary, list);
  details.addEventListener("toggle", () => { if (details.open) list.replaceChildren(...menuItems(id, details.dataset.enabled === "true", details)); });
  return details;
}

function menuItems(id, enabled, details) {
  const item = (text, className, act) => {
    const button = make("button", className, text);
    button.type = "button";
    button.onclick = () => { details.open = false; act(); };
    return button;
  };
  const download = (text, format) => {
    const link = make("a", "", text);
    link.href = `/api/export?${new URLSearchParams({ id, format })}`;
    link.onclick = () => { details.open = false; };
    return link;
  };
  const command = (action) => ask(`/api/clients/${action}`, { clientId: id });
  return [
    enabled ? item("Disable", "", () => confirmed(`Disable ${id}?`, "Its sessions end at once and new ones are refused, until you enable it again.", "Disable", () => command("disable")))
      : item("Enable", "", () => command("enable").catch((error) => banner(error.message))),
    item("Disconnect", "", () => command("disconnect").catch((error) => banner(error.message))),
    item("New keys …", "", () => confirmed(`New keys for ${id}?`, "Its present config stops working at once. You get a fresh config and QR code.", "Make new keys",
      async () => openBundleDialog(await command("rotate"), `${id} has new keys`))),
    download("WireGuard config, no keys", "wireguard"), download("smartvpn config, no keys", "smartvpn"),
    item("Remove …", "danger-text", () => confirmed(`Remove ${id}?`, "Its sessions end and its entry is deleted. This cannot be undone.", "Remove", () => command("remove"))),
  ];
}

function confirmed(title, text, yes, act) { openConfirmDialog({ title, text, yes, act }); }

// ---- controls ----

let typing = 0;
element("search").oninput = () => {
  clearTimeout(typing);
  typing = setTimeout(() => { view.search = element("search").value.trim(); view.offset = 0; follow(); }, 250);
};
element("show").onchange = () => { view.show = element("show").value; view.offset = 0; follow(); };
element("previous").onclick = () => { view.offset = Math.max(0, view.offset - 50); follow(); };
element("next").onclick = () => { view.offset += 50; follow(); };
element("add").onclick = () => openAddDialog((params) => ask("/api/clients", params));
element("logout").onclick = () => ask("/api/logout", {}).finally(() => location.assign("/login"));
element("theme").onclick = () => {
  const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("theme", document.documentElement.dataset.theme);
};
document.addEventListener("click", (event) => {
  for (const open of document.querySelectorAll("details.menu[open]")) if (!open.contains(event.target)) open.open = false;
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") for (const open of document.querySelectorAll("details.menu[open]")) open.open = false;
});

ask("/api/session").then((session) => { csrf = session.csrf; follow(); }).catch((error) => banner(error.message));
