/* The filters: native menus, filled from the work and read into the view. They cost the page nothing while they rest. */
(function () {
  'use strict';

  const { byId, make, on, pick } = window.faultline;
  const NAMES = ['model', 'data', 'label', 'attack', 'epsilon', 'outcome', 'sample', 'method', 'share', 'versus', 'layer'];
  /* A choice by keyboard passes over others on its way; it counts once the keys rest. */
  const REST = 350;
  const filled = {};
  let pressed = 0;
  let resting = null;

  const entry = ({ value, label }) => make('option', { value }, label);
  const written = (option) => ('items' in option ? make('optgroup', { label: option.group }, ...option.items.map(entry)) : entry(option));

  /* Only what differs is written. */
  function fill(menus) {
    NAMES.forEach((name) => {
      const { options, value } = menus[name];
      const node = byId(`${name}-select`);
      const now = JSON.stringify(options);
      if (filled[name] !== now) { node.replaceChildren(...options.map(written)); }
      filled[name] = now;
      // What the keyboard is about to choose must not be taken back by an answer to the choice before.
      if (!(resting && document.activeElement === node) && node.value !== (value || '')) { node.value = value || ''; }
      node.disabled = !options.length;
    });
  }

  function choose(node) {
    resting = null;
    const name = node.id.replace('-select', '');
    const isNone = (name === 'label' && node.value === 'any') || (name === 'versus' && node.value === 'nothing');
    const value = isNone ? null : name === 'share' ? Number(node.value) : node.value;
    pick({ [name]: value });
  }

  document.addEventListener('keydown', (event) => {
    if (event.target.matches?.('select.menu')) { pressed = performance.now(); }
  }, true);
  document.addEventListener('change', (event) => {
    const node = event.target;
    if (!node.matches?.('select.menu') || !NAMES.includes(node.id.replace('-select', ''))) { return; }
    window.clearTimeout(resting);
    resting = null;
    if (performance.now() - pressed < 100) {
      resting = window.setTimeout(() => choose(node), REST);
    } else {
      choose(node);
    }
  });

  on('menus', fill);
})();
