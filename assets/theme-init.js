/* Set the theme before anything is painted: the link's, else the last one used, else the system's. */
(function () {
  var asked = new URLSearchParams(window.location.search).get('theme');
  var known = { light: true, dark: true };
  var theme = known[asked] ? asked : null;
  try {
    theme = theme || window.localStorage.getItem('faultline-theme');
  } catch (error) {
    /* Storage may be switched off; the system's theme is used then. */
  }
  if (!known[theme]) {
    theme = window.matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light';
  }
  document.documentElement.dataset.theme = theme;
})();
