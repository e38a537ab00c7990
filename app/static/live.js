// Screen readers hear a region that stays and whose words change; what the server sends is a new one every time.
const live = document.createElement("p");
live.className = "cdd-spoken";
live.role = "status";
document.body.append(live);
new MutationObserver(() => {
    const words = element.querySelector(".cdd-spoken, .cdd-told")?.textContent;
    if (words && words !== live.textContent) live.textContent = words;
}).observe(element, { childList: true, subtree: true, characterData: true });
