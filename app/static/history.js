// Runs of this visitor, kept in this browser alone by stage.js: settings and a small picture each.
const KEY = "cdd-history";
const root = element;
const names = JSON.parse(root.querySelector("ol").dataset.names); // of tasks

let runs = []; // as shown: another tab may write meanwhile

function read() {
    try {
        const kept = JSON.parse(localStorage.getItem(KEY));
        return Array.isArray(kept) ? kept.filter((run) => run?.settings && run.picture) : [];
    } catch { return []; }
}

function show() {
    runs = read();
    const list = root.querySelector("ol");
    list.replaceChildren(...runs.map((run, index) => {
        const item = document.createElement("li"), button = document.createElement("button");
        const picture = document.createElement("img"), words = document.createElement("span");
        const { settings } = run;
        picture.src = run.picture;
        picture.alt = "";
        const task = names[settings.task] ?? "";
        words.textContent = [settings.prompt || task, `seed ${settings.seed}`].filter(Boolean).join(", ");
        button.type = "button";
        button.dataset.index = index;
        button.title = [
            task, `${settings.distilled_steps} against ${settings.undistilled_steps} steps`, run.when,
        ].filter(Boolean).join(", ");
        button.append(picture, words);
        item.append(button);
        return item;
    }));
    root.querySelector("[data-empty]").hidden = runs.length > 0;
    root.querySelector("[data-clear]").hidden = runs.length === 0;
}

root.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.matches("[data-clear]")) {
        localStorage.removeItem(KEY);
        show();
    } else trigger("click", { settings: runs[Number(button.dataset.index)].settings });
});
show();
for (const changed of ["cdd-history", "storage"]) {
    window.addEventListener(changed, () => { if (root.isConnected) show(); });
}
