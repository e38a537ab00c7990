// A click on an idea adds it to the prompt, or takes it out again.
element.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const prompt = document.querySelector("#prompt textarea"), idea = button.dataset.idea;
    const words = prompt.value.split(",").map((word) => word.trim()).filter(Boolean);
    const whole = button.dataset.whole !== undefined; // an instruction stands alone
    const next = whole ? [idea] : words.includes(idea) ? words.filter((word) => word !== idea) : [...words, idea];
    prompt.value = next.join(", ");
    prompt.dispatchEvent(new Event("input", { bubbles: true }));
});
