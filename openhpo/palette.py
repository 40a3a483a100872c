"""The colours of Okabe and Ito, which all kinds of eyes tell apart, and two greys."""

BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
GREY, BLACK = "#999999", "#333333"
