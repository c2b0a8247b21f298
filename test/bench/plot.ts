/**
 * Line charts as SVG, for the reports. Drawn by ECharts without a browser; the same figures give the same bytes, so that
 * a plot in git changes only when its figures do. Knows nothing of what is drawn.
 */
import { mkdir, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { installPeer } from "./peers.ts";

interface Line {
  readonly label: string;
  /** `[x, y]`, in the order of x. */
  readonly points: readonly (readonly [number, number])[];
  /** A bound or a guess rather than a measurement: drawn dashed, without marks. */
  readonly dashed?: boolean;
}

/** One coordinate system; several stand side by side. */
export interface Panel {
  readonly title: string;
  readonly xLabel: string;
  readonly yLabel: string;
  /** Default: linear, from 0. */
  readonly scale?: "linear" | "log";
  readonly lines: readonly Line[];
}

/** The part of ECharts 6 that is called. */
interface Echarts {
  init(
    element: null,
    theme: null,
    options: { renderer: "svg"; ssr: true; width: number; height: number },
  ): { setOption(option: object): void; renderToSVGString(): string; dispose(): void };
}

const PANEL_WIDTH = 380;
/** Of a panel that stands alone, which has to hold the whole legend. */
const LONE_PANEL_WIDTH = 560;
const HEIGHT = 320;
const MARGIN = { left: 64, right: 20, top: 64, bottom: 48 };
const DIGITS = 4;

/** Draws panels side by side. Labels that two panels share are one line's name. */
export async function drawPanels(path: string, panels: readonly Panel[]): Promise<void> {
  const echarts = (await import(await installPeer("echarts"))) as Echarts;
  const width = panelWidth(panels) * panels.length;
  const chart = echarts.init(null, null, { renderer: "svg", ssr: true, width, height: HEIGHT });
  chart.setOption(chartOption(panels));
  const svg = chart.renderToSVGString();
  chart.dispose();
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, `${stable(svg)}\n`);
}

function panelWidth({ length }: readonly Panel[]): number {
  return length === 1 ? LONE_PANEL_WIDTH : PANEL_WIDTH;
}

function chartOption(panels: readonly Panel[]): object {
  const panel = panelWidth(panels);
  const axis = (name: string, gridIndex: number, scale: Panel["scale"], nameGap: number) => ({
    gridIndex,
    name,
    nameGap,
    type: scale === "log" ? "log" : "value",
    nameLocation: "middle",
    splitLine: { lineStyle: { color: "#e4e4e4" } },
    axisLine: { show: true },
  });
  return {
    animation: false,
    backgroundColor: "#ffffff",
    textStyle: { fontFamily: "sans-serif" },
    color: ["#0b62c4", "#8a8a8a", "#c4540b", "#3b8f3b"],
    legend: { top: 30 },
    title: panels.map(({ title }, index) => ({
      text: title,
      left: index * panel + MARGIN.left,
      top: 6,
      textStyle: { fontSize: 14 },
    })),
    grid: panels.map((_, index) => ({
      left: index * panel + MARGIN.left,
      width: panel - MARGIN.left - MARGIN.right,
      top: MARGIN.top,
      bottom: MARGIN.bottom,
    })),
    xAxis: panels.map(({ xLabel, scale }, index) => axis(xLabel, index, scale, 28)),
    yAxis: panels.map(({ yLabel, scale }, index) => axis(yLabel, index, scale, 42)),
    series: panels.flatMap(({ lines }, index) =>
      lines.map(({ label, points, dashed = false }) => ({
        name: label,
        type: "line",
        xAxisIndex: index,
        yAxisIndex: index,
        data: points.map(([x, y]) => [x, Number(y.toPrecision(DIGITS))]),
        symbol: dashed || points.length > 50 ? "none" : "circle",
        symbolSize: 6,
        lineStyle: { width: 2, type: dashed ? "dashed" : "solid" },
      })),
    ),
  };
}

/** ECharts numbers its charts and names its classes by that number. */
function stable(svg: string): string {
  return svg.replaceAll(/zr\d+-/g, "zr0-");
}
