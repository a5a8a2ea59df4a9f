"use strict";
/* Before the page is drawn: the theme that was chosen here last; without a choice the system's holds. */
{
  const chosen = localStorage.getItem("theme");
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
}
