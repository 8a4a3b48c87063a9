/* Which datapaths the maps of a layer belong to: a diagram of three sets and a list of all combinations of four, with exact counts. */
(function () {
  'use strict';

  const { fill, make } = window.faultline;
  const SETS = [[1, 'clean', 'clean'], [2, 'adversarial', 'adversarial'], [4, 'class', 'class'], [8, 'noise', 'noise']];
  const THREE = 7;
  /* Circles of a diagram of three sets and where the counts of its seven regions stand, in a box of 220 by 176. */
  const CIRCLES = { 1: [84, 66], 2: [136, 66], 4: [110, 110] };
  const RADIUS = 52;
  const PLACES = { 1: [60, 54], 2: [160, 54], 4: [110, 142], 3: [110, 46], 5: [76, 98], 6: [144, 98], 7: [110, 80] };
  let chosen = null;
  let panel = null;

  const svg = (tag, settings, ...children) => {
    const node = document.createElementNS('http://www.w3.org/2000/svg', tag);
    Object.entries(settings).forEach(([name, value]) => node.setAttribute(name, value));
    node.append(...children);
    return node;
  };

  function counted(members, mask) {
    const counts = new Map();
    members.forEach((bits) => counts.set(bits & mask, (counts.get(bits & mask) || 0) + 1));
    return counts;
  }

  const nameOf = (bit) => (bit === 4 ? `class '${panel.class_name}'` : SETS.find(([other]) => other === bit)[1]);
  const named = (bits) => SETS.filter(([bit]) => bits & bit).map(([bit]) => nameOf(bit)).join(' and ') || 'none';

  function euler() {
    if (!panel.has_class) {
      return make('p', { class: 'note open' }, 'The comparison with the fooled-into class is not available yet, or the class was kept.');
    }
    const counts = counted(panel.member, THREE);
    const circles = SETS.slice(0, 3).map(([bit, , look]) => svg('circle', { cx: CIRCLES[bit][0], cy: CIRCLES[bit][1], r: RADIUS, class: look }));
    const numbers = Object.entries(PLACES).map(([bits, [x, y]]) => svg('text', { x, y }, String(counts.get(Number(bits)) || 0)));
    const labels = [[32, 14, 'clean'], [186, 14, 'adversarial'], [110, 174, nameOf(4)]].map(
      ([x, y, text]) => svg('text', { x, y, class: 'label' }, text));
    const told = Object.keys(PLACES).map((bits) => `${named(Number(bits))}: ${counts.get(Number(bits)) || 0}`).join('; ');
    return svg('svg', { viewBox: '0 0 220 180', role: 'img', 'aria-label': `Maps in exactly these datapaths. ${told}.` },
      ...circles, ...numbers, ...labels);
  }

  function cell(bits, [bit, , look]) {
    const isIn = Boolean(bits & bit);
    return make('td', { class: isIn ? `dot ${look}` : 'dot' }, isIn ? '●' : '○');
  }

  function row([bits, count], most) {
    const button = make('button', { class: 'row-button', 'aria-pressed': String(chosen === bits) }, named(bits));
    button.addEventListener('click', () => choose(chosen === bits ? null : bits));
    const bar = make('span', { class: 'bar' }, make('span', { class: 'track' },
      make('span', { class: 'fill shared', style: { width: `${100 * count / most}%` } })), make('span', { class: 'figure' }, String(count)));
    return make('tr', { class: chosen === bits ? 'picked' : null }, make('th', { scope: 'row' }, button),
      ...SETS.map((set) => cell(bits, set)), make('td', {}, bar));
  }

  function upset() {
    const counts = [...counted(panel.member, 15)].sort((a, b) => b[1] - a[1] || a[0] - b[0]);
    const heads = ['Kept by exactly', 'Clean', 'Adv.', 'Class', 'Noise', 'Maps'].map((text) => make('th', { scope: 'col' }, text));
    return make('table', { class: 'upset' }, make('caption', { class: 'sr-only' }, 'Every combination of the four datapaths'),
      make('thead', {}, make('tr', {}, ...heads)), make('tbody', {}, ...counts.map((one) => row(one, counts[0][1]))));
  }

  function choose(bits) {
    chosen = bits;
    fill('layer-upset', upset());
    window.faultline.emit('combination', bits);
  }

  /* Draw the sets of a panel; a combination chosen in another layer is forgotten. */
  function draw(next) {
    panel = next;
    chosen = null;
    fill('layer-euler', euler());
    fill('layer-upset', upset());
  }

  window.faultline.on('tiles', (shown) => draw(shown.panel));
})();
