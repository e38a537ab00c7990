// A run whose server can't be reached any more would be "busy" for ever; this says so instead. If its steps come
// through after all, they say so themselves; if not, Gradio loads the page again once it can.
const LOST = "The connection to the server is lost; wait until it is back, then press Generate if nothing moves.";
const BACK = "The connection is back: press Generate if nothing moves.";
const PULSE = 3000; // milliseconds between two questions to the server, while a run goes on

function say(line, kind, words) {
    line.className = `cdd-status cdd-${kind}`;
    const sentence = document.createElement("p");
    sentence.textContent = words;
    sentence.role = kind === "error" ? "alert" : "status";
    line.replaceChildren(sentence);
}

const before = new WeakMap(); // what a line said: the page doesn't say it again while it says nothing else

function lost() {
    for (const line of document.querySelectorAll("#status .cdd-status, .cdd-status.cdd-busy")) {
        if (line.textContent === LOST) continue;
        before.set(line, line.cloneNode(true));
        say(line, "error", LOST);
    }
}

window.addEventListener("offline", lost);
window.addEventListener("online", () => {
    for (const line of document.querySelectorAll(".cdd-error")) {
        if (line.textContent !== LOST) continue;
        const old = before.get(line);
        if (!old || old.classList.contains("cdd-busy")) say(line, "idle", BACK);
        else line.replaceWith(old);
    }
});
setInterval(() => { if (document.querySelector(".cdd-busy")) fetch("gradio_api/app_id").catch(lost); }, PULSE);
