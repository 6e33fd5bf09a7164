// Sorts and filters the tables, draws the pictures, and answers the lists beside them.
"use strict";

const FIGURES = JSON.parse(document.getElementById("figures").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const narrow = matchMedia("(max-width: 700px)");
const CONFIG = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] };
const LEGEND_LINE = 20;   // pixels
const MOST_NAMES = 15;     // of a matrix on a narrow screen
const FEW_LINES = 10;      // so few need no filter
const PAGE_LINES = 50;

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// The figure's own layout on the page's colours, and with the legend where there is room for it.
function laidOut(figure) {
  const own = figure.layout;
  const height = own.height || 440;
  const isMatrix = figure.data[0]?.type === "heatmap";
  const isCramped = narrow.matches && isMatrix && figure.data[0].x.length > MOST_NAMES;
  const legendLines = isMatrix ? 0 : figure.data.filter((trace) => trace.name && trace.showlegend !== false).length;
  const axis = (given) => ({
    gridcolor: colour("--rule"), zerolinecolor: colour("--rule"), linecolor: colour("--faint"),
    automargin: true, showticklabels: !isCramped, ...given, title: { standoff: 12, ...given.title },
  });
  const beside = { x: 1.02, y: 1 };
  const below = { x: 0, y: 0, yref: "container", yanchor: "bottom" };
  return {
    ...own,
    height: narrow.matches ? height + LEGEND_LINE * legendLines : height,
    margin: { l: 50, r: 10, t: 20, b: 50 },
    font: { color: colour("--ink"), family: "inherit", size: narrow.matches ? 11 : 13 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: isMatrix ? colour("--empty") : "rgba(0,0,0,0)",
    legend: { ...own.legend, ...(narrow.matches ? below : beside) },
    hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--faint"), font: { color: colour("--ink") } },
    dragmode: narrow.matches ? false : "zoom",   // a finger scrolls
    // Slanted names end at their place; others would run out of a narrow picture.
    xaxis: axis(narrow.matches && own.xaxis.ticktext ? { ...own.xaxis, tickangle: -40 } : own.xaxis),
    yaxis: axis(own.yaxis),
  };
}

function choosersOf(key) {
  return [...document.querySelectorAll(`select[data-of="${key}"]`)];
}

function draw(key) {
  const choice = [key, ...choosersOf(key).map((select) => select.value)].join("/");
  const figure = FIGURES[choice];
  if (figure) Plotly.react(key, structuredClone(figure.data), laidOut(figure), CONFIG);
}

function drawAll() {
  document.documentElement.classList.toggle("dark", dark.matches);
  document.querySelectorAll(".chart").forEach((chart) => draw(chart.id));
}

function showPanel(group, value) {
  document.querySelectorAll(`[data-panel-of="${group}"]`).forEach((panel) => {
    panel.hidden = panel.dataset.value !== value;
  });
}

document.addEventListener("change", (event) => {
  const { of: key, panel } = event.target.dataset;
  if (key) {
    draw(key);
    showPanel(key, choosersOf(key)[0].value);
  }
  if (panel) showPanel(panel, event.target.value);
});

document.addEventListener("click", (event) => {
  const link = event.target.closest("[data-choose]");
  if (!link) return;
  choosersOf(link.dataset.choose)[0].value = link.dataset.value;
  draw(link.dataset.choose);
});

async function makeTables() {
  const bytes = Uint8Array.from(atob(document.getElementById("datatables").textContent), (c) => c.charCodeAt(0));
  const url = URL.createObjectURL(new Blob([bytes], { type: "application/javascript" }));
  const { ITable } = await import(url);
  URL.revokeObjectURL(url);
  document.querySelectorAll("table.data").forEach((table) => {
    const lines = table.tBodies[0].rows.length;
    const isNumber = [...table.tHead.rows[0].cells].map((cell) => cell.classList.contains("number"));
    new ITable(table, {
      order: [], autoWidth: false, paging: lines > PAGE_LINES, pageLength: PAGE_LINES,
      layout: {
        topStart: lines > FEW_LINES ? "search" : null, topEnd: null,
        bottomStart: lines > FEW_LINES ? "info" : null, bottomEnd: lines > PAGE_LINES ? "paging" : null,
      },
      columnDefs: isNumber.map((is, target) => ({
        target, type: is ? "num" : "string",
        columnControl: lines > FEW_LINES ? ["order", is ? "searchDropdown" : ["searchList"]] : ["order"],
      })),
      ordering: { indicators: false, handler: true },
      language: { search: "filter ", info: "_TOTAL_ lines", infoFiltered: "of _MAX_" },
    });
  });
  document.documentElement.dataset.ready = "tables";
}

dark.addEventListener("change", drawAll);
narrow.addEventListener("change", drawAll);
drawAll();
makeTables();
