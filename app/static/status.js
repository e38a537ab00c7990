// A run whose server can't be reached any more would be "busy" for ever; this says so instead. If its steps come
// through after all, they say so themselves; if not, Gradio loads the page again once it can.
const LOST = "The connection to the server is lost; wait until it is back, then press Generate if nothing moves.";
const BACK = "The connection is back: press Generate if nothing moves.";
const PULSE = 3000; // milliseconds between two questions to the server, while a run goes on

function say(line, kind, words) {
    line.className = `cdd-status cdd-${kind} cdd-uncertain`; // a run may be going on, or not
    const sentence = document.createElement("p");
    sentence.textContent = words;
    if (kind === "error") sentence.role = "alert";
    else sentence.className = "cdd-told";
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

const silent = () => [...document.querySelectorAll(".cdd-error")].filter((line) => line.textContent === LOST);

function back() {
    for (const line of silent()) {
        const old = before.get(line);
        if (!old || old.classList.contains("cdd-busy")) say(line, "idle", BACK);
        else line.replaceWith(old);
    }
}

// A proxy answers for a server that is gone: only the server's own answer counts.
const ask = () => fetch("gradio_api/app_id", { signal: AbortSignal.timeout(2 * PULSE) }).then((answer) => (answer.ok ? back : lost)()).catch(lost);

window.addEventListener("offline", lost);
window.addEventListener("online", ask);
setInterval(() => { if (document.querySelector(".cdd-busy") || silent().length) ask(); }, PULSE);

// Enter in the prompt is another Generate, and rests with it.
document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || !event.target.matches?.("#prompt textarea")) return;
    if (document.querySelector("#go").ariaDisabled !== "true") return;
    event.preventDefault();
    event.stopImmediatePropagation();
}, true);
