// Screen readers hear a region that stays and whose words change; what the server sends is a new one every time.
const live = document.createElement("p");
live.className = "cdd-spoken";
live.role = "status";
document.body.append(live);
// While something is drawn, what would start something else rests: for the mouse, the keyboard and screen readers alike.
const resting = element.closest("#grid-status") ? "#grid-go" : "#go, #examples button";
const rest = () => {
    const busy = Boolean(element.querySelector(".cdd-busy"));
    document.querySelectorAll(resting).forEach((button) => button.setAttribute("aria-disabled", busy));
};
document.addEventListener("click", (event) => {
    if (event.target.closest?.(resting)?.ariaDisabled === "true") event.stopImmediatePropagation();
}, true);
new MutationObserver(() => {
    rest();
    const words = element.querySelector(".cdd-spoken, .cdd-told")?.textContent;
    if (words && words !== live.textContent) live.textContent = words;
}).observe(element, { childList: true, subtree: true, characterData: true });
