/* Saving: one menu on every panel, one way to make a PNG, an SVG or a CSV of whatever is shown there.

   A panel offers what it has: `offer(name, () => [{ title, name, plot | rows | picture }])`. A `plot` is a Plotly element,
   `rows` a list of lists with the heads first, `picture` a promise of a canvas. What is not of the view of Explain says
   what it is `about`: a `name` for the file and the `line` below the picture. */
(function () {
  'use strict';

  const { byId, make, on, say } = window.faultline;
  const LINE = 22;
  const FONT = 'system-ui, sans-serif';
  const state = { work: null };
  on('work', (work) => { state.work = work; });

  /* ---- what it is called ---- */
  const plain = (text) => String(text).normalize('NFKD').replace(/[^\w.@-]+/g, '-').replace(/^[-.]+|[-.]+$/g, '');

  /* The file's name carries what is shown: model, data, class, attack, image, and as far as they matter layer and channel. */
  function filename(panel, name, about) {
    if (about) { return ['faultline', about.name, name].map(plain).join('_'); }
    const view = (state.work && state.work.view) || {};
    const level = { network: 1, case: 0, layer: 2, neuron: 3 }[panel] || 0;
    const parts = ['faultline', view.model, view.data, view.label !== null && view.label !== undefined ? `class-${view.label}` : null,
      [view.attack, view.epsilon].filter(Boolean).join('-'), view.sample, level > 1 ? view.layer : null,
      level > 2 ? `channel-${view.channel}` : null, name, state.work?.key?.slice(0, 8)];
    return parts.filter(Boolean).map(plain).join('_');
  }

  function hand(blob, file) {
    const address = URL.createObjectURL(blob);
    const link = make('a', { href: address, download: file });
    document.body.append(link);
    link.click();
    link.remove();
    window.setTimeout(() => URL.revokeObjectURL(address), 60000);
  }

  /* ---- tables ---- */
  const NUMBER = /^[+\-−]?(\d[\d.,]*|\.\d+)(e[+-]?\d+)?(\s?%)?$/i;

  /* A spreadsheet would run text that begins like a formula; numbers stay numbers. */
  function cell(value) {
    // A sum of floats shows more digits than it has; a number's minus is the one that programs read.
    const exact = typeof value === 'number' ? Number(value.toPrecision(12)) : value;
    const read = exact === null || exact === undefined ? '' : String(exact);
    const text = NUMBER.test(read) ? read.replace('−', '-') : read;
    const safe = typeof value !== 'number' && /^[=+\-@\t\r]/.test(text) && !NUMBER.test(text) ? `'${text}` : text;
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  }

  const csv = (rows) => rows.map((row) => row.map(cell).join(',')).join('\r\n') + '\r\n';

  /* What a reader sees of a table, row by row; words for screen readers alone are left out. */
  function rowsOf(table) {
    return [...table.rows].map((row) => [...row.cells].map((node) => {
      const copy = node.cloneNode(true);
      copy.querySelectorAll('.sr-only, [aria-hidden]').forEach((one) => one.remove());
      return copy.textContent.replace(/\s+/g, ' ').trim();
    }));
  }

  const objects = (list) => (list.length ? [Object.keys(list[0]), ...list.map((one) => Object.values(one))] : []);

  /* ---- charts ---- */
  const words = (text) => String(text).replace(/<br>click to .*/, '').replace(/<br>/g, '; ').replace(/<[^>]+>/g, '').replaceAll('&#x27;', "'").replaceAll('&amp;', '&').replaceAll('&lt;', '<').replaceAll('&gt;', '>');
  const axisTitle = (axis, otherwise) => words(axis?.title?.text || otherwise).trim();

  /* Every drawn point: its series, its place, its value, its interval where it has one, and what stands beside it. */
  function points(plot) {
    const { columns } = plot.layout.meta || {};
    const named = (x) => (columns && Number.isInteger(x) ? columns[x] || 'answer' : x);
    const heads = ['series', columns ? 'layer' : axisTitle(plot.layout.xaxis, 'x'), axisTitle(plot.layout.yaxis, 'value'), 'from', 'to', 'says'];
    const rows = plot._fullData.filter((trace) => trace.visible === true && trace.x && !/^bands /.test(trace.name)).flatMap((trace) => (
      Array.from(trace.x, (x, k) => {
        const y = trace.y[k];
        const base = trace.base === undefined || trace.base === null ? null : trace.base.length === undefined ? trace.base : trace.base[k];
        const bars = trace.error_y && trace.error_y.visible !== false ? trace.error_y : null;
        const from = base !== null ? base : bars?.array ? y - (bars.arrayminus || bars.array)[k] : null;
        const to = base !== null ? base + y : bars?.array ? y + bars.array[k] : null;
        return [trace.name, named(x), y, from, to, Array.isArray(trace.hovertext) ? words(trace.hovertext[k]) : ''];
      })));
    return [heads, ...rows];
  }

  /* The chart as it stands, and a line that says what it is of. */
  async function drawn(plot, format, about) {
    const { width, height } = plot._fullLayout;
    const margin = plot._fullLayout._size;
    const line = { text: about ? lineOf(about) : faultlineLine(), xref: 'paper', yref: 'paper', x: 0, y: 0, xanchor: 'left', yanchor: 'top', yshift: -margin.b,
      xshift: 6 - margin.l, showarrow: false, font: { size: 10, color: plot._fullLayout.font.color } };
    const { meta, uirevision, ...layout } = plot.layout;
    const figure = { data: plot.data, layout: { ...layout, autosize: false, width, height: height + LINE, annotations: [...(layout.annotations || []), line],
      margin: { l: margin.l, r: margin.r, t: margin.t, b: margin.b + LINE } } };
    const address = await window.Plotly.toImage(figure, { format, width, height: height + LINE, scale: format === 'svg' ? 1 : 2 });
    if (format === 'svg') {
      return new Blob([decodeURIComponent(address.slice(address.indexOf(',') + 1))], { type: 'image/svg+xml' });
    }
    const bytes = Uint8Array.from(atob(address.slice(address.indexOf(',') + 1)), (one) => one.charCodeAt(0));
    return new Blob([bytes], { type: 'image/png' });
  }

  const faultlineLine = () => window.faultline.citation().line;
  const lineOf = ({ line }) => `Faultline: ${line} ${new Date().toISOString().slice(0, 16).replace('T', ' ')} UTC`
    .replace(/[<>&]/g, (sign) => ({ '<': '&lt;', '>': '&gt;', '&': '&amp;' })[sign]);

  /* ---- pictures: a canvas in the page's colours, with a heading and the same line below ---- */
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const loaded = (address) => new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => reject(new Error(`${address} could not be loaded`));
    image.src = address;
  });

  /* A canvas of so many pixels for the picture itself; `paint` draws it below the heading. */
  async function canvas(width, height, heading, paint) {
    const node = make('canvas', { width: Math.max(360, width) + 24, height: height + 24 + 2 * LINE });
    const pen = node.getContext('2d');
    pen.fillStyle = colour('panel');
    pen.fillRect(0, 0, node.width, node.height);
    pen.fillStyle = colour('text');
    pen.font = `600 13px ${FONT}`;
    pen.fillText(heading, 12, 20, node.width - 24);
    pen.font = `11px ${FONT}`;
    pen.fillStyle = colour('muted');
    pen.fillText(faultlineLine(), 12, node.height - 8, node.width - 24);
    pen.imageSmoothingEnabled = false;
    pen.translate(12, 12 + LINE);
    await paint(pen);
    return node;
  }

  const encoded = (node) => new Promise((resolve) => { node.toBlob(resolve, 'image/png'); });

  /* ---- what the panels offer, and the menu ---- */
  const MAKERS = {
    PNG: (one) => (one.plot ? drawn(one.plot, 'png', one.about) : one.picture && one.picture().then(encoded)),
    SVG: (one) => one.plot && drawn(one.plot, 'svg', one.about),
    CSV: (one) => (one.rows || one.plot) && Promise.resolve(new Blob([csv(one.rows ? one.rows() : points(one.plot))], { type: 'text/csv' })),
  };
  const has = { PNG: (one) => one.plot || one.picture, SVG: (one) => one.plot, CSV: (one) => one.rows || one.plot };

  async function save(panel, one, format) {
    say('saved', `Saving ${one.title} …`);
    try {
      const file = `${filename(panel, one.name, one.about)}.${format.toLowerCase()}`;
      hand(await MAKERS[format](one), file);
      say('saved', `Saved ${file}`);
    } catch (error) {
      say('saved', `${one.title} could not be saved: ${error.message}`);
    }
  }

  function entry(panel, one) {
    const buttons = Object.keys(MAKERS).filter((format) => has[format](one)).map((format) => {
      const button = make('button', { class: 'plain-button', type: 'button', 'data-term': `save-${format.toLowerCase()}`, 'aria-label': `${one.title} as ${format}` }, format);
      button.addEventListener('click', () => save(panel, one, format));
      return button;
    });
    return make('li', {}, make('span', {}, one.title), make('span', { class: 'formats' }, ...buttons));
  }

  function open(menu) {
    const panel = menu.dataset.save;
    const offered = (window.faultline.offers[panel] || (() => []))();
    menu.querySelector('.popover').replaceChildren(
      offered.length ? make('ul', {}, ...offered.map((one) => entry(panel, one))) : make('p', { class: 'note' }, 'Nothing is shown here yet.'),
      make('p', { id: 'saved', class: 'note', role: 'status' }));
  }

  document.addEventListener('toggle', (event) => {
    const menu = event.target;
    if (!menu.matches?.('details[data-save]')) { return; }
    if (menu.open) { open(menu); } else { menu.querySelector('.popover').replaceChildren(); }
  }, true);

  /* Plots that are drawn, by the id of their frame. */
  function plotIn(id) {
    const plot = byId(id)?.querySelector('.js-plotly-plot');
    return plot && plot._fullData && plot._fullData.some((trace) => trace.x && trace.x.length) ? plot : null;
  }

  const chart = (id, title, name) => { const plot = plotIn(id); return plot ? [{ title, name, plot }] : []; };
  const table = (selector, title, name) => [...document.querySelectorAll(selector)].map((node, k, all) => {
    const caption = node.caption?.textContent || node.closest('[aria-label]')?.getAttribute('aria-label');
    return { title: all.length > 1 && caption ? caption : title, name: k ? `${name}-${k + 1}` : name, rows: () => rowsOf(node) };
  });

  Object.assign(window.faultline, { saving: { csv, filename, points, canvas, loaded, colour, rowsOf, objects, chart, table } });
})();
