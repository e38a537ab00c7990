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

function lost() {
    for (const line of document.querySelectorAll("#status .cdd-status, .cdd-status.cdd-busy")) say(line, "error", LOST);
}

window.addEventListener("offline", lost);
window.addEventListener("online", () => {
    for (const line of document.querySelectorAll(".cdd-error")) if (line.textContent === LOST) say(line, "idle", BACK);
});
setInterval(() => { if (document.querySelector(".cdd-busy")) fetch("gradio_api/app_id").catch(lost); }, PULSE);
