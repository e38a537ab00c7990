// Behaviour of a finished run: the viewer, playing the steps, the link. One listener each, so redrawing costs nothing.
const root = element;
const TICKS = 24, TICK = 130; // a replay takes the same time for every lane, however many steps it has

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

function play(button) {
    const films = [...root.querySelectorAll(".cdd-strip")].map((strip) => ({
        frames: [...strip.querySelectorAll("li img")].map((img) => img.getAttribute("src")),
        screen: root.querySelector(`#card-${strip.dataset.lane} img[data-picture="${strip.dataset.picture}"]`),
    })).filter((film) => film.screen && film.frames.length);
    button.disabled = true;
    let tick = 0;
    const timer = setInterval(() => {
        for (const { frames, screen } of films) {
            screen.src = frames[Math.min(frames.length - 1, Math.floor((tick * frames.length) / TICKS))];
        }
        if (tick++ >= TICKS || !button.isConnected) {
            clearInterval(timer);
            for (const { frames, screen } of films) screen.src = frames.at(-1);
            button.disabled = false;
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

root.addEventListener("change", (event) => { if (event.target.closest("#viewer select")) look(); });
root.addEventListener("input", (event) => { if (event.target.matches("[data-split]")) look(); });
root.addEventListener("pointermove", (event) => {
    const frame = event.target.closest(".cdd-frame");
    if (!frame) return;
    const at = frame.getBoundingClientRect();
    const pane = frame.querySelector(".cdd-pane").getBoundingClientRect();
    frame.style.setProperty("--x", (100 * ((event.clientX - at.left) % pane.width)) / pane.width + "%");
    frame.style.setProperty("--y", (100 * (event.clientY - at.top)) / at.height + "%");
});
root.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button?.matches("[data-play]")) play(button);
    if (button?.matches("[data-link]")) copyLink(button);
});
