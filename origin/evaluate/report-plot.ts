/**
 * An import's report as a picture: for each figure a bar for full precision, one for the format, and the bound that is
 * promised, drawn as plain SVG. Figures are over full precision's, so that all bars have one scale. Knows no measurement.
 */
import type { ImportReport, Promised } from "./import-report.ts";

const WIDTH = 800;
const ROW_HEIGHT = 58;
const HEADER_HEIGHT = 64;
const FOOTER_HEIGHT = 40;
const LABEL_WIDTH = 304;
const BARS_WIDTH = 360;
const BAR_HEIGHT = 14;
/** What the bars' whole width stands for, unless a figure is larger. */
const SCALE_MIN = 2;

const COLORS = { full: "#9aa5b1", kept: "#2b7a4b", missed: "#b3401e", bound: "#1f2933", text: "#1f2933" };

/** The same report gives the same bytes. */
export function drawReport(report: ImportReport): string {
  const { model, full, quantized, promises } = report;
  const height = HEADER_HEIGHT + promises.length * ROW_HEIGHT + FOOTER_HEIGHT;
  const finite = promises.map(({ measured }) => measured).filter(Number.isFinite);
  const scale = Math.max(SCALE_MIN, ...finite);
  const title = `${model}: ${quantized.format} beside ${full.format}`;
  const rows = promises.map((promise, index) => drawRow(promise, HEADER_HEIGHT + index * ROW_HEIGHT, scale));
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" viewBox="0 0 ${WIDTH} ${height}" font-family="system-ui, sans-serif" font-size="13" fill="${COLORS.text}">
<title>${escapeXml(title)}</title>
<rect width="${WIDTH}" height="${height}" fill="#ffffff"/>
<text x="24" y="32" font-size="17" font-weight="600">${escapeXml(title)}</text>
${rows.join("\n")}
${drawLegend(height - 18, full.format, quantized.format)}
</svg>
`;
}

function drawRow({ what, measured, bound, side, isKept }: Promised, top: number, scale: number): string {
  const color = isKept ? COLORS.kept : COLORS.missed;
  const width = (figure: number) => (Math.min(Number.isFinite(figure) ? figure : 0, scale) / scale) * BARS_WIDTH;
  const boundX = round(LABEL_WIDTH + width(bound));
  const verdict = `${measured.toFixed(3)}${isKept ? "" : " missed"}`;
  return [
    `<text x="24" y="${top + 15}">${escapeXml(what)}</text>`,
    `<text x="24" y="${top + 32}" font-size="11" fill-opacity="0.7">promised: at ${side} ${bound}</text>`,
    bar(top + 2, width(1), COLORS.full),
    bar(top + 4 + BAR_HEIGHT, width(measured), color),
    `<line x1="${boundX}" x2="${boundX}" y1="${top - 3}" y2="${top + 2 * BAR_HEIGHT + 9}" stroke="${COLORS.bound}" stroke-width="1.5" stroke-dasharray="4 3"/>`,
    `<text x="${LABEL_WIDTH + BARS_WIDTH + 12}" y="${top + 15 + BAR_HEIGHT}" font-weight="600" fill="${color}">${verdict}</text>`,
  ].join("\n");
}

function bar(y: number, width: number, color: string): string {
  return `<rect x="${LABEL_WIDTH}" y="${y}" width="${round(width)}" height="${BAR_HEIGHT}" rx="2" fill="${color}"/>`;
}

function drawLegend(y: number, full: string, quantized: string): string {
  const entry = (x: number, colors: readonly string[], text: string) =>
    [
      ...colors.map(
        (color, i) => `<rect x="${x + i * 12}" y="${y - 9}" width="10" height="10" rx="2" fill="${color}"/>`,
      ),
      `<text x="${x + colors.length * 12 + 4}" y="${y}" font-size="12">${escapeXml(text)}</text>`,
    ].join("\n");
  return [
    entry(24, [COLORS.full], `${full} = 1`),
    entry(140, [COLORS.kept, COLORS.missed], `${quantized}, promise kept or missed`),
    `<line x1="440" x2="440" y1="${y - 12}" y2="${y + 4}" stroke="${COLORS.bound}" stroke-width="1.5" stroke-dasharray="4 3"/>`,
    `<text x="448" y="${y}" font-size="12">the promised bound</text>`,
  ].join("\n");
}

function round(length: number): number {
  return Math.round(length * 10) / 10;
}

function escapeXml(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");
}
