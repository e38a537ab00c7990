// Behaviour of a finished run: the viewer, playing the steps, the link, and its place in the visitor's history.
// One listener each on the element that stays, so redrawing costs nothing.
const root = element;
const KEY = "cdd-history", MOST = 24, SIDE = 64; // see history.js
const LEAST = 24, TICK = 130; // ticks of a replay, which takes the same time for every lane; milliseconds of one

const viewer = () => root.querySelector("#viewer");

function look() {
    const box = viewer();
    const value = (name) => box.querySelector(name).value;
    box.dataset.view = value("select[data-view]");
    box.style.setProperty("--split", value("[data-split]") + "%");
    box.style.setProperty("--zoom", value("select[data-zoom]"));
    for (const side of ["left", "right"]) {
        const chosen = box.querySelector(`select[data-side=${side}]`);
        const picture = box.querySelector(`.cdd-${side} img`);
        if (picture.getAttribute("src") !== chosen.value) picture.src = chosen.value;
        picture.alt = `${side}: ${chosen.selectedOptions[0].text}`;
    }
}

function films() {
    return [...root.querySelectorAll(".cdd-strip")].map((strip) => ({
        tiles: [...strip.querySelectorAll("li[data-t]")],
        screen: root.querySelector(`#card-${strip.dataset.lane} img[data-picture="${strip.dataset.picture}"]`),
    })).filter((film) => film.screen && film.tiles.length);
}

// Of large pictures strips have smaller versions, which are there already.
function show(screen, tile, whole) {
    const picture = tile.querySelector("img");
    screen.src = whole ? picture.dataset.whole : picture.getAttribute("src");
    screen.alt = `${screen.alt.split(":")[0]}: ${picture.alt}`;
}

let pointed = null; // the tile under the pointer

// Or the one that was tapped, or reached by keys.
const meant = () => (pointed?.isConnected ? pointed : root.querySelector(".cdd-strip li[data-t]:focus"));

// That tile and, of every other strip, the last one that had been drawn by that noise level (of a strip as long, the
// same step: its sampler may have times of its own); a finished run's results make room for them meanwhile.
function align(here) {
    root.querySelectorAll(".cdd-alike").forEach((tile) => tile.classList.remove("cdd-alike"));
    const still = viewer() && !root.querySelector("[data-play]:disabled"); // nothing else is shown there
    const own = here && [...here.parentElement.children];
    for (const { tiles, screen } of films()) {
        const drawn = here && tiles.filter((tile) => Number(tile.dataset.t) >= Number(here.dataset.t));
        const places = tiles[0].parentElement.children.length;
        const alike = here && (places === own.length ? tiles[own.indexOf(here)] : drawn.at(-1) ?? tiles[0]);
        alike?.classList.add("cdd-alike");
        if (still) show(screen, alike ?? tiles.at(-1), true);
    }
}

function play(button) {
    const shown = films();
    const ticks = Math.max(LEAST, ...shown.map((film) => film.tiles.length)); // every step is seen
    button.disabled = true;
    let tick = 0;
    const timer = setInterval(() => {
        for (const { tiles, screen } of shown) {
            show(screen, tiles[Math.min(tiles.length - 1, Math.floor((tick * tiles.length) / ticks))], false);
        }
        if (tick++ >= ticks || !button.isConnected) {
            clearInterval(timer);
            button.disabled = false;
            align(meant());
        }
    }, TICK);
}

async function copyLink(button) {
    const settings = JSON.parse(root.querySelector("#verdict").dataset.settings);
    const address = new URL(location.origin + location.pathname);
    address.searchParams.set("settings", JSON.stringify(settings));
    try {
        await navigator.clipboard.writeText(address.href);
        button.textContent = "Copied";
    } catch {
        history.replaceState(null, "", address); // no clipboard here: the address bar has it now
        button.textContent = "See the address bar";
    }
    setTimeout(() => { button.textContent = "Copy link"; }, 2000);
}

// The server makes the file now; what it says instead is shown.
async function save(link) {
    const words = link.textContent, told = root.querySelector("#unsaved");
    told.hidden = true;
    link.textContent = `${words}: being made …`;
    try {
        const answer = await fetch(link.href);
        if (!answer.ok) throw new Error(await answer.text());
        const name = /filename="?([^";]+)/.exec(answer.headers.get("content-disposition"))?.[1] ?? "cdd";
        const file = document.createElement("a");
        file.href = URL.createObjectURL(await answer.blob());
        file.download = name;
        file.click();
        setTimeout(() => URL.revokeObjectURL(file.href), 60000);
    } catch (error) {
        told.textContent = error instanceof TypeError ? "The server can't be reached; try again." : error.message;
        told.hidden = false;
    }
    link.textContent = words;
}

async function remember(verdict) {
    const settings = JSON.parse(verdict.dataset.settings); // at once: a new run takes them away
    const result = root.querySelector(".cdd-card:not(.cdd-map) img");
    if (!result) return;
    const shown = new Image(); // one's own: that on the page may show a step meanwhile
    shown.src = root.querySelector(`#strip-${result.closest(".cdd-card").dataset.lane} li:last-child img`).src;
    await shown.decode().catch(() => {});
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = SIDE;
    const side = Math.min(shown.naturalWidth, shown.naturalHeight); // the square in the middle
    const [left, top] = [(shown.naturalWidth - side) / 2, (shown.naturalHeight - side) / 2];
    canvas.getContext("2d").drawImage(shown, left, top, side, side, 0, 0, SIDE, SIDE);
    const run = { settings, picture: canvas.toDataURL("image/jpeg", 0.8), when: new Date().toLocaleString() };
    try {
        const kept = JSON.parse(localStorage.getItem(KEY) ?? "[]");
        const runs = [run, ...(Array.isArray(kept) ? kept : [])].slice(0, MOST);
        localStorage.setItem(KEY, JSON.stringify(runs));
        window.dispatchEvent(new Event("cdd-history"));
    } catch { /* no room, or storage is forbidden: then there is no history */ }
}

let last = null; // the verdict that was remembered
new MutationObserver(() => {
    const verdict = root.querySelector("#verdict"), settings = verdict?.dataset.settings ?? null;
    if (settings && settings !== last) remember(verdict);
    last = settings;
    if (meant()) align(meant()); // what the server draws knows of no marks
}).observe(root, { childList: true, subtree: true });

root.addEventListener("change", (event) => { if (event.target.closest("#viewer select")) look(); });
root.addEventListener("input", (event) => { if (event.target.matches("[data-split]")) look(); });
root.addEventListener("pointerover", (event) => {
    const here = event.target.closest(".cdd-strip li[data-t]");
    if (here === pointed) return;
    pointed = here;
    align(meant());
});
root.addEventListener("pointerleave", () => {
    const left = pointed;
    pointed = null;
    if (left) align(meant());
});
for (const kind of ["focusin", "focusout"]) root.addEventListener(kind, () => setTimeout(() => align(meant())));

// In the slider's view the pictures themselves can be dragged; enlarged, what is pointed at stays in sight.
function drag(event) {
    const frame = event.target.closest(".cdd-frame");
    if (!frame || event.target.matches("[data-split]")) return;
    const at = frame.getBoundingClientRect();
    if (viewer().dataset.view === "slider" && (event.buttons || event.type === "pointerdown")) {
        frame.querySelector("[data-split]").value = (100 * (event.clientX - at.left)) / at.width;
        look();
    }
    const pane = frame.querySelector(".cdd-pane").getBoundingClientRect();
    frame.style.setProperty("--x", (100 * ((event.clientX - at.left) % pane.width)) / pane.width + "%");
    frame.style.setProperty("--y", (100 * (event.clientY - at.top)) / at.height + "%");
}
for (const kind of ["pointerdown", "pointermove"]) root.addEventListener(kind, drag);
root.addEventListener("dragstart", (event) => { if (event.target.closest(".cdd-frame")) event.preventDefault(); });
root.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return; // the browser's own: back, forward
    const tile = event.target.closest(".cdd-strip li[data-t]");
    const next = { ArrowLeft: "previousElementSibling", ArrowRight: "nextElementSibling" }[event.key];
    if (tile && next) {
        tile[next]?.focus();
        event.preventDefault();
    }
    const [dx, dy] = { ArrowLeft: [-5, 0], ArrowRight: [5, 0], ArrowUp: [0, -5], ArrowDown: [0, 5] }[event.key] ?? [0, 0];
    if (!event.target.matches(".cdd-frame") || !(dx || dy)) return;
    for (const [name, by] of [["--x", dx], ["--y", dy]]) {
        const at = parseFloat(event.target.style.getPropertyValue(name) || "50");
        event.target.style.setProperty(name, Math.min(100, Math.max(0, at + by)) + "%");
    }
    event.preventDefault(); // or the page would scroll
});
root.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button?.matches("[data-play]")) play(button);
    if (button?.matches("[data-link]")) copyLink(button);
    const link = event.target.closest("#actions a");
    if (link) {
        event.preventDefault();
        save(link);
    }
});
