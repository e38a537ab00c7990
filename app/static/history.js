// Runs of this visitor, kept in this browser alone: settings and a small picture each.
const KEY = "cdd-history", MOST = 24, SIDE = 64;
const root = element;

const read = () => { try { return JSON.parse(localStorage.getItem(KEY)) ?? []; } catch { return []; } };

function write(runs) {
    try { localStorage.setItem(KEY, JSON.stringify(runs)); } catch { /* no room, or storage is forbidden */ }
    show();
}

function show() {
    const runs = read(), list = root.querySelector("ol");
    list.replaceChildren(...runs.map((run, index) => {
        const item = document.createElement("li"), button = document.createElement("button");
        const picture = document.createElement("img"), words = document.createElement("span");
        const { settings } = run;
        picture.src = run.picture;
        picture.alt = "";
        words.textContent = `${settings.prompt || "no prompt"}, seed ${settings.seed}`;
        button.type = "button";
        button.dataset.index = index;
        button.title = `${settings.distilled_steps} against ${settings.undistilled_steps} steps, ${run.when}`;
        button.append(picture, words);
        item.append(button);
        return item;
    }));
    root.querySelector("[data-empty]").hidden = runs.length > 0;
    root.querySelector("[data-clear]").hidden = runs.length === 0;
}

async function remember(verdict) {
    const settings = JSON.parse(verdict.dataset.settings);
    const shown = document.querySelector("#stage .cdd-card:not(.cdd-map) img");
    if (!shown) return;
    await shown.decode().catch(() => {});
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = SIDE;
    canvas.getContext("2d").drawImage(shown, 0, 0, SIDE, SIDE);
    const run = { settings, picture: canvas.toDataURL("image/jpeg", 0.8), when: new Date().toLocaleString() };
    write([run, ...read()].slice(0, MOST));
}

let last = null;
new MutationObserver(() => {
    const verdict = document.querySelector("#verdict");
    if (verdict && verdict.dataset.settings !== last) {
        last = verdict.dataset.settings;
        remember(verdict);
    }
}).observe(document.getElementById("stage"), { childList: true, subtree: true });

root.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.matches("[data-clear]")) write([]);
    else trigger("click", { settings: read()[Number(button.dataset.index)].settings });
});
show();
