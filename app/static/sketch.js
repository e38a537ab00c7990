// A depth map drawn by hand: a soft brush that paints near (bright) or far (dark) on a canvas of grey.
const root = element, canvas = root.querySelector("canvas"), pen = canvas.getContext("2d");
const field = (name) => root.querySelector(`[data-${name}]`);
const SIDE = canvas.width;
let before = null; // the last point of the stroke that is being painted
const undo = [];

function ground() {
    pen.fillStyle = "black";
    pen.fillRect(0, 0, SIDE, SIDE);
    const slope = pen.createLinearGradient(0, SIDE * 0.45, 0, SIDE);
    slope.addColorStop(0, "#101010");
    slope.addColorStop(1, "#e0e0e0");
    pen.fillStyle = slope;
    pen.fillRect(0, SIDE * 0.45, SIDE, SIDE);
}

function dab(x, y) {
    const radius = Number(field("size").value), grey = Math.round(2.55 * Number(field("near").value));
    const soft = pen.createRadialGradient(x, y, radius * 0.55, x, y, radius);
    soft.addColorStop(0, `rgba(${grey}, ${grey}, ${grey}, 1)`);
    soft.addColorStop(1, `rgba(${grey}, ${grey}, ${grey}, 0)`);
    pen.fillStyle = soft;
    pen.fillRect(x - radius, y - radius, 2 * radius, 2 * radius);
}

function stroke(event) {
    const box = canvas.getBoundingClientRect();
    const point = [((event.clientX - box.left) * SIDE) / box.width, ((event.clientY - box.top) * SIDE) / box.height];
    const [x, y] = before ?? point;
    const pieces = Math.max(1, Math.ceil(Math.hypot(point[0] - x, point[1] - y) / 3));
    for (let k = 1; k <= pieces; k++) dab(x + ((point[0] - x) * k) / pieces, y + ((point[1] - y) * k) / pieces);
    before = point;
}

function remember() {
    undo.push(pen.getImageData(0, 0, SIDE, SIDE));
    if (undo.length > 20) undo.shift();
}

// By keyboard the brush has a place of its own, which shows while the canvas has the focus.
const ring = root.querySelector(".cdd-brush"), WAYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
let place = [SIDE / 2, SIDE / 2], painting = false; // a stroke, for as long as Shift is down

function aim() {
    [ring.style.left, ring.style.top] = place.map((at) => `${(100 * at) / SIDE}%`);
    ring.style.width = `${(200 * Number(field("size").value)) / SIDE}%`;
}

canvas.addEventListener("focus", aim);
canvas.addEventListener("keydown", (event) => {
    const way = WAYS[event.key];
    if ((!way && event.key !== " ") || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    if (way) place = place.map((at, axis) => Math.min(SIDE, Math.max(0, at + 8 * way[axis])));
    aim();
    if (way && !event.shiftKey) return;
    if (!painting) remember();
    painting = event.shiftKey;
    dab(...place);
});
canvas.addEventListener("keyup", (event) => { if (event.key === "Shift") painting = false; });
canvas.addEventListener("pointerdown", (event) => {
    remember();
    canvas.setPointerCapture(event.pointerId);
    before = null;
    stroke(event);
});
canvas.addEventListener("pointermove", (event) => { if (event.buttons && before) stroke(event); });
for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { before = null; });
root.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button?.matches("[data-undo]") && undo.length) pen.putImageData(undo.pop(), 0, 0);
    if (button?.matches("[data-clear]")) { remember(); ground(); }
    if (button?.matches("[data-use]")) trigger("click", { picture: canvas.toDataURL("image/png") });
});
ground();
