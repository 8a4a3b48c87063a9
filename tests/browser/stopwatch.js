/* Times what the page does, from the input event to the frame in which all of the answer stands. Used by speed.py. */
(() => {
  'use strict';

  const seen = { pressed: 0, river: 0, usable: 0, drawn: 0 };
  const one = (selector) => document.querySelector(selector);
  const plot = (id) => one(`#${id} .js-plotly-plot`);
  const frame = () => new Promise((done) => { requestAnimationFrame(() => setTimeout(done, 0)); });
  const loaded = (image) => image.complete && image.naturalWidth > 0;
  const allLoaded = (selector) => {
    const images = [...document.querySelectorAll(selector)];
    return images.length > 0 && images.every(loaded);
  };

  for (const kind of ['mousedown', 'keydown', 'change']) {
    window.addEventListener(kind, (event) => { seen.pressed = event.timeStamp; }, { capture: true });
  }

  /* What is drawn now: a redraw replaces every one of these. */
  const marks = {
    network: () => [plot('network-river')?.data, one('#headline')?.firstChild],
    layer: () => [one('#layer-tiles')?.firstChild],
    neuron: () => [plot('distribution')?.data, one('#neuron-card')?.firstChild, one('#neuron-gallery')?.firstChild,
      one('#neighbourhood-list .neighbours')],
  };
  const pictures = {
    network: () => allLoaded('#inputs-body .photos img') && Boolean(one('#network-river .main-svg .trace')),
    layer: () => sheets().every(loaded),
    neuron: () => allLoaded('#neuron-card img') && patches().every(loaded),
  };
  const held = {};
  function picture(address) {
    if (!held[address]) { held[address] = new Image(); held[address].src = address; }
    return held[address];
  }
  const addressIn = (style) => style.slice(style.indexOf('"') + 1, style.lastIndexOf('"'));
  function sheets() {
    const style = one('#layer-tiles').style;
    return ['--first', '--second'].map((name) => picture(addressIn(style.getPropertyValue(name))));
  }
  function patches() {
    return [...document.querySelectorAll('#neuron-gallery .patches div')].slice(0, 1)
      .map((div) => picture(addressIn(div.style.backgroundImage)));
  }

  async function watch(level, before) {
    const isNew = () => marks[level]().every((mark, k) => mark && mark !== before[k]);
    while (!isNew() || !pictures[level]()) { await frame(); }
    await frame();
    return performance.now() - seen.pressed;
  }

  /* Called before the click; `result` holds the milliseconds once the answer is painted. */
  window.stopwatch = {
    start(level) {
      window.stopwatch.result = null;
      watch(level, marks[level]()).then((value) => { window.stopwatch.result = value; });
    },
    result: null,
    opening: () => {
      const paint = performance.getEntriesByName('first-contentful-paint')[0];
      return { painted: paint ? paint.startTime : null, usable: seen.usable, drawn: seen.drawn };
    },
  };

  (async () => {
    while (!one('#model-select')?.value) { await frame(); }
    seen.usable = performance.now();
    while (!one('#network-river .main-svg .trace') || !one('#headline')?.firstChild) { await frame(); }
    await frame();
    seen.drawn = performance.now();
  })();
})();
