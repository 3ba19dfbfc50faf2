/** The picture: for each scenario, which share of requests waits longer than a time, one line for each policy. */

export interface Line {
  name: string;
  waitsMs: ArrayLike<number>;
}

export interface Panel {
  title: string;
  lines: Line[];
}

const colours = ['#0b7a3b', '#c2410c', '#1d4ed8', '#7c3aed', '#64748b', '#a16207'];
const width = 330;
const height = 220;
const inset = { left: 44, right: 18, top: 26, bottom: 38 };
const perRow = 3;
/** Axes: waits of 0.1 s to 1,000 s, shares of 1 to 1/1000, both logarithmic. */
const [waitMsFirst, waitDecades] = [100, 4];
const shareDecades = 3;
/** Points of one line. */
const points = 60;

const across = (waitMs: number): number =>
  inset.left + (Math.log10(waitMs / waitMsFirst) / waitDecades) * (width - inset.left - inset.right);
const down = (share: number): number =>
  inset.top + (-Math.log10(share) / shareDecades) * (height - inset.top - inset.bottom);

/** The share of sorted waits that are longer. */
function longerShare(sorted: ArrayLike<number>, waitMs: number): number {
  let [low, high] = [0, sorted.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle]! > waitMs) high = middle;
    else low = middle + 1;
  }
  return (sorted.length - low) / sorted.length;
}

function path(line: Line): string {
  const sorted = Float64Array.from(line.waitsMs as number[]).sort();
  const steps: string[] = [];
  for (let point = 0; point <= points; point++) {
    const waitMs = waitMsFirst * 10 ** ((waitDecades * point) / points);
    const share = longerShare(sorted, waitMs);
    if (share < 10 ** -shareDecades) break;
    steps.push(`${steps.length === 0 ? 'M' : 'L'}${across(waitMs).toFixed(1)} ${down(share).toFixed(1)}`);
  }
  return steps.join('');
}

function axes(): string {
  const parts: string[] = [];
  for (let decade = 0; decade <= waitDecades; decade++) {
    const x = across(waitMsFirst * 10 ** decade).toFixed(1);
    parts.push(
      `<path class="g" d="M${x} ${inset.top}V${height - inset.bottom}"/><text x="${x}" y="${height - inset.bottom + 15}" text-anchor="middle">${(waitMsFirst * 10 ** decade) / 1000}</text>`,
    );
  }
  for (let decade = 0; decade <= shareDecades; decade++) {
    const y = down(10 ** -decade).toFixed(1);
    parts.push(
      `<path class="g" d="M${inset.left} ${y}H${width - inset.right}"/><text x="${inset.left - 5}" y="${Number(y) + 4}" text-anchor="end">${100 / 10 ** decade} %</text>`,
    );
  }
  return parts.join('');
}

const text = (words: string): string =>
  words.replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;');

function drawPanel({ title, lines }: Panel, at: number): string {
  const place = `translate(${(at % perRow) * width} ${Math.floor(at / perRow) * height})`;
  const drawn = lines.map(
    (line, index) =>
      `<path fill="none" stroke="${colours[index % colours.length]}" stroke-width="1.6" d="${path(line)}"/>`,
  );
  return `<g transform="${place}"><text x="${inset.left}" y="16" font-weight="bold">${text(title)}</text>${axes()}${drawn.join('')}<text x="${(inset.left + width - inset.right) / 2}" y="${height - 6}" text-anchor="middle">wait, s</text></g>`;
}

function drawLegend(names: string[], at: number): string {
  const place = `translate(${(at % perRow) * width} ${Math.floor(at / perRow) * height})`;
  const rows = names.map((name, index) => {
    const y = inset.top + 16 + index * 20;
    return `<path stroke="${colours[index % colours.length]}" stroke-width="3" d="M${inset.left} ${y}h24"/><text x="${inset.left + 32}" y="${y + 4}">${text(name)}</text>`;
  });
  return `<g transform="${place}"><text x="${inset.left}" y="16" font-weight="bold">share of requests that wait longer</text>${rows.join('')}</g>`;
}

/** @returns a whole SVG file */
export function drawWaits(panels: Panel[]): string {
  const names = panels[0]?.lines.map(({ name }) => name) ?? [];
  const rows = Math.ceil((panels.length + 1) / perRow);
  const style = 'text{font:11px sans-serif;fill:#111}.g{stroke:#ddd;stroke-width:.6}';
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${perRow * width} ${rows * height}"><style>${style}</style><rect width="100%" height="100%" fill="#fff"/>
${panels.map(drawPanel).join('\n')}
${drawLegend(names, panels.length)}
</svg>
`;
}
