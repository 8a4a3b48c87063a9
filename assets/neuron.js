/* The neuron panel: its card, patches and neighbours from one store of plain values; side and order stay in the browser. */
(function () {
  'use strict';

  const { built, byId, fill, make, on, panel, say, scale } = window.faultline;
  const drawn = { facts: null, place: null, order: 'relevance', side: 'adversarial' };

  function show(facts) {
    say('neuron-title', facts ? facts.title : '');
    const message = byId('neuron-message');
    message.hidden = !facts || !facts.message;
    message.textContent = facts ? facts.message : '';
    byId('neuron-body').classList.toggle('unchosen', !facts || Boolean(facts.message));
    fill('neuron-card', ...(facts ? facts.card.map(built) : []));
    fill('neuron-numbers', ...(facts ? facts.numbers.map(built) : []));
    colours(facts && facts.grid);
    probe(null);
  }

  /* Both maps share one scale, from their joint lowest value, at most zero, to their joint highest. */
  function colours(grid) {
    byId('neuron-colours').hidden = !grid;
    if (!grid) { return; }
    const all = [0, ...grid.clean, ...grid.adversarial];
    const short = (value) => written(Number(value.toPrecision(3)));
    scale('neuron-colours', 'viridis', short(Math.min(...all)), `${short(Math.max(...all))} activation`);
  }

  /* ---- a position of the map: what it answers, and what it sees of both inputs ---- */
  const HOW = 'Click a position of a map, or move over it with the arrow keys, to see what it answers and what it sees.';
  const share = (value) => `${100 * value}%`;

  function box(left, top, right, bottom) {
    return make('span', { class: 'field probe', style: { left: share(left), top: share(top), width: share(right - left),
      height: share(bottom - top) } });
  }

  function probe(place) {
    const grid = drawn.facts && drawn.facts.grid;
    drawn.place = place;
    document.querySelectorAll('#neuron-card .probe').forEach((old) => old.remove());
    if (!place || !grid) { say('neuron-probe', grid ? HOW : ''); return; }
    const [row, column] = place;
    const [top, bottom] = grid.vertical[row];
    const [left, right] = grid.horizontal[column];
    document.querySelectorAll('#neuron-card .seen').forEach((node) => node.append(box(left, top, right, bottom)));
    document.querySelectorAll('#neuron-card .answers').forEach((node) => node.append(
      box(column / grid.columns, row / grid.rows, (column + 1) / grid.columns, (row + 1) / grid.rows)));
    const [height, width] = grid.size;
    const at = row * grid.columns + column;
    const range = (low, high, size) => `${Math.round(low * size)} to ${Math.round(high * size)}`;
    say('neuron-probe', `Row ${row}, column ${column}: clean ${written(grid.clean[at])}, adversarial `
      + `${written(grid.adversarial[at])}; sees pixels ${range(left, right, width)} across, ${range(top, bottom, height)} down.`);
  }

  const written = (value) => String(value).replace('-', '−');

  function point(event) {
    const frame = event.target.closest?.('#neuron-card .answers, #neuron-card .seen');
    const grid = drawn.facts && drawn.facts.grid;
    if (!frame || !grid) { return; }
    const inside = frame.getBoundingClientRect();
    const part = (at, start, size, count) => Math.min(count - 1, Math.max(0, Math.floor(count * (at - start) / size)));
    probe([part(event.clientY, inside.top, inside.height, grid.rows), part(event.clientX, inside.left, inside.width, grid.columns)]);
  }

  const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

  function step(event) {
    const grid = drawn.facts && drawn.facts.grid;
    const move = STEPS[event.key];
    if (!move || !grid || !event.target.closest?.('#neuron-card .answers')) { return; }
    event.preventDefault();
    const [row, column] = drawn.place || [Math.floor(grid.rows / 2), Math.floor(grid.columns / 2)];
    const within = (value, count) => Math.min(count - 1, Math.max(0, value));
    probe([within(row + move[0], grid.rows), within(column + move[1], grid.columns)]);
  }

  function overlay(event) {
    const button = event.target.closest?.('#neuron-overlay');
    if (!button) { return; }
    const isOver = byId('neuron-card').classList.toggle('is-over');
    button.setAttribute('aria-pressed', String(isOver));
  }

  document.addEventListener('click', point);
  document.addEventListener('click', overlay);
  document.addEventListener('keydown', step);

  /* ---- the lines between a channel and its neighbours, drawn where the lists stand ---- */
  const svg = (tag, settings) => {
    const node = document.createElementNS('http://www.w3.org/2000/svg', tag);
    Object.entries(settings).forEach(([name, value]) => node.setAttribute(name, value));
    return node;
  };

  function line(from, to, width, look) {
    const middle = (from.x + to.x) / 2;
    return svg('path', { d: `M${from.x},${from.y} C${middle},${from.y} ${middle},${to.y} ${to.x},${to.y}`, 'stroke-width': width,
      class: look });
  }

  /* The little pictures of a neighbour, clean and adversarial, cut out of its layer's sheets. */
  function picture(button) {
    const [site, channel, columns, rows] = button.dataset.tile.split(' ').map(Number);
    const at = (index, count) => `${count > 1 ? 100 * index / (count - 1) : 0}%`;
    button.prepend(...['clean', 'adversarial'].map((side) => make('span', { class: 'little', style: {
      backgroundImage: `url("/media/maps/${encodeURIComponent(drawn.facts.asked.key)}/${site}/${side}.png?scale=channel")`,
      backgroundSize: `${100 * columns}% ${100 * rows}%`,
      backgroundPosition: `${at(channel % columns, columns)} ${at(Math.floor(channel / columns), rows)}` } })));
  }

  /* Pictures and lines cost time: they are made where they are seen. */
  function connect() {
    if (drawn.tab !== 'links' || !drawn.facts) { return; }
    byId('neighbourhood-list').querySelectorAll('[data-tile]').forEach((button) => { if (!button.querySelector('.little')) { picture(button); } });
    window.requestAnimationFrame(lines);
  }

  function lines() {
    const frame = byId('neighbourhood-list');
    const centre = frame.querySelector('.neighbour-centre');
    frame.querySelector('svg')?.remove();
    if (!centre || !centre.offsetWidth) { return; }
    const origin = frame.getBoundingClientRect();
    const own = centre.getBoundingClientRect();
    const picture = svg('svg', { width: frame.clientWidth, height: frame.scrollHeight, 'aria-hidden': 'true' });
    frame.querySelectorAll('.neighbour').forEach((item) => {
      const box = item.getBoundingClientRect();
      const isLeft = box.right <= own.left + 1;
      const end = { x: (isLeft ? box.right : box.left) - origin.left, y: (box.top + box.bottom) / 2 - origin.top };
      const near = { x: (isLeft ? own.left : own.right) - origin.left, y: (own.top + own.bottom) / 2 - origin.top };
      picture.append(line(end, near, item.dataset.width, item.className.replace('neighbour ', '')));
    });
    frame.prepend(picture);
  }

  function arrange() {
    const { facts, order, side } = drawn;
    if (!facts) { return; }
    fill('neuron-gallery', ...((facts.patches[order] || []).map(built)));
    const near = facts.neighbours[side] || { list: [], note: '' };
    const focused = document.activeElement?.closest?.('#neighbourhood-list') !== null && document.activeElement !== document.body;
    fill('neighbourhood-list', ...near.list.map(built));
    say('neighbourhood-note', near.note);
    connect();
    // Who walks along the connections by keyboard goes on from the first of the new channel.
    if (focused) { byId('neighbourhood-list').querySelector('button')?.focus({ preventScroll: true }); }
  }

  function draw(facts) {
    drawn.facts = facts;
    show(facts);
    arrange();
  }

  function controls(order, side) {
    Object.assign(drawn, { order, side });
    arrange();
  }

  /* ---- what can be saved: the pictures, and what the open tab shows ---- */
  const { offer } = window.faultline;
  const saving = () => window.faultline.saving;
  const SIDE = 200;

  function card() {
    const figures = [...document.querySelectorAll('#neuron-card .neuron-side')];
    const frames = figures.flatMap((figure) => [...figure.querySelectorAll('.framed')].map((frame) => [frame, figure.querySelector('figcaption').textContent]));
    const { canvas, loaded, colour } = saving();
    return canvas(frames.length * (SIDE + 12), SIDE + 22, drawn.facts.title, async (pen) => {
      const images = await Promise.all(frames.map(([frame]) => loaded(frame.querySelector('img').src)));
      frames.forEach(([frame, text], k) => {
        const x = k * (SIDE + 12);
        pen.drawImage(images[k], x, 0, SIDE, SIDE);
        frame.querySelectorAll('.field:not(.probe)').forEach((field) => {
          const [left, top, width, height] = ['left', 'top', 'width', 'height'].map((name) => SIDE * parseFloat(field.style[name]) / 100);
          pen.strokeStyle = colour(field.classList.contains('clean') ? 'on-picture-clean' : 'on-picture-adversarial') || colour('clean');
          pen.setLineDash(field.classList.contains('clean') ? [] : [5, 3]);
          pen.lineWidth = 2;
          pen.strokeRect(x + left, top, Math.max(4, width), Math.max(4, height));
        });
        pen.fillStyle = colour('muted');
        if (k % 2 === 0) { pen.fillText(text, x, SIDE + 16); }
      });
    });
  }

  const background = (node) => /url\("(.+)"\)/.exec(node.style.backgroundImage)[1];

  function sheet() {
    const list = byId('neuron-gallery').querySelectorAll('.patches div');
    const names = [...byId('neuron-gallery').querySelectorAll('.patches span')].map((node) => node.textContent);
    const { canvas, loaded, colour } = saving();
    const [across, size] = [8, 96];
    return canvas(across * (size + 6), Math.ceil(list.length / across) * (size + 20), `${drawn.facts.title}: top patches by ${drawn.order}`, async (pen) => {
      const image = await loaded(background(list[0]));
      const [wide, tall] = [image.naturalWidth / Math.min(list.length, across), image.naturalHeight / Math.ceil(list.length / across)];
      names.forEach((name, k) => {
        const [x, y] = [(k % across) * (size + 6), Math.floor(k / across) * (size + 20)];
        pen.drawImage(image, (k % across) * wide, Math.floor(k / across) * tall, wide, tall, x, y, size, size);
        pen.fillStyle = colour('muted');
        pen.fillText(name, x, y + size + 13, size);
      });
    });
  }

  function feature(image) {
    return saving().canvas(SIDE, SIDE, `${drawn.facts.title}: feature visualization`, async (pen) => {
      pen.drawImage(await saving().loaded(image.src), 0, 0, SIDE, SIDE);
    });
  }

  /* The lists of connections as they stand, strongest first. */
  function connections() {
    const rows = [...byId('neighbourhood-list').querySelectorAll('.neighbours')].flatMap((list) => (
      [...list.querySelectorAll('.neighbour')].map((item) => {
        const button = item.querySelector('button');
        const name = button ? button.textContent : item.textContent.trim().replace(/ \S+$/, '');
        const rest = item.textContent.trim().slice(name.length).trim();
        const [contribution, ...more] = rest.split(', ');
        return [list.querySelector('h4').textContent.split(':')[0], name, contribution, more.join(', '), drawn.side];
      })));
    return [['direction', 'neighbour', 'contribution in logits', 'group', 'run'], ...rows];
  }

  offer('neuron', () => {
    if (!drawn.facts || drawn.facts.message) { return []; }
    const { chart, table } = saving();
    const made = byId('feature').querySelector('img');
    return [
      { title: 'Inputs and maps', name: 'maps', picture: card },
      ...(byId('neuron-gallery').querySelector('.patches') ? [{ title: 'Patches', name: 'patches', picture: sheet }] : []),
      { title: 'Connections', name: 'connections', rows: connections },
      ...(made ? [{ title: 'Feature', name: 'feature', picture: () => feature(made) }] : []),
      ...chart('response', 'Growth', 'growth'), ...chart('distribution', 'Histogram', 'histogram'),
      ...table('#neuron-numbers table', 'Numbers', 'numbers'),
    ];
  });

  on('tab', (tab) => { drawn.tab = tab; connect(); });
  window.addEventListener('resize', connect);

  panel('neuron', {
    draw,
    root: '.neuron-panel',
    level: 3,
    of: ({ key, request, gallery }, { layer, channel, share, theme }) => (
      channel === null ? null : { request, key, share, layer, channel, theme, gallery }),
  });
  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside.neuron = { controls };
})();
