package bench

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
)

// Charts are SVG of a few shapes and no style sheet: they show wherever a page
// of Markdown does. Bars and points are medians, the thin lines go from the
// least round to the greatest.

const (
	chartWidth  = 800
	chartMargin = 16
	labelWidth  = 336
	barHeight   = 22
	oursColour  = "#1b6ca8"
	peerColour  = "#7b8794"
	inkColour   = "#1f2933"
	gridColour  = "#e4e7eb"
)

// bar is one variant's figure.
type bar struct {
	label            string
	min, median, max float64
	ours             bool
}

// panel is one measure of several variants.
type panel struct {
	title string
	bars  []bar
}

type drawing struct{ strings.Builder }

func (d *drawing) text(x, y float64, anchor, colour, text string) {
	fmt.Fprintf(d, `<text x="%.1f" y="%.1f" text-anchor="%s" fill="%s">%s</text>`+"\n", x, y, anchor, colour, html.EscapeString(text))
}

func (d *drawing) line(x1, y1, x2, y2 float64, colour string, width float64) {
	fmt.Fprintf(d, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-width="%.1f"/>`+"\n", x1, y1, x2, y2, colour, width)
}

func (d *drawing) heading(y float64, text string) {
	fmt.Fprintf(d, `<text x="%d" y="%.1f" font-size="15" font-weight="bold" fill="%s">%s</text>`+"\n", chartMargin, y, inkColour, html.EscapeString(text))
}

// finish frames what was drawn.
func (d *drawing) finish(height float64) []byte {
	return fmt.Appendf(nil, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %.0f" width="%[1]d" height="%.0[2]f" font-family="sans-serif" font-size="12">
<rect width="100%%" height="100%%" fill="white"/>
%s</svg>
`, chartWidth, height, d.String())
}

func colourOf(ours bool) string {
	if ours {
		return oursColour
	}
	return peerColour
}

// barChart draws panels one below the other, each with a scale of its own.
func barChart(panels []panel) []byte {
	var d drawing
	y := float64(chartMargin)
	for _, p := range panels {
		y += 16
		d.heading(y, p.title)
		y += 10
		y = d.bars(p.bars, y) + 12
	}
	return d.finish(y)
}

func (d *drawing) bars(bars []bar, y float64) float64 {
	const left, right = chartMargin + labelWidth, chartWidth - chartMargin - 60
	top := 0.0
	for _, b := range bars {
		top = max(top, b.max)
	}
	x := func(v float64) float64 { return left + (right-left)*v/max(top, math.SmallestNonzeroFloat64) }
	for _, b := range bars {
		middle := y + barHeight/2
		d.text(left-8, middle+4, "end", inkColour, b.label)
		fmt.Fprintf(d, `<rect x="%d" y="%.1f" width="%.1f" height="%d" fill="%s"/>`+"\n", left, y+3, x(b.median)-left, barHeight-6, colourOf(b.ours))
		d.line(x(b.min), middle, x(b.max), middle, inkColour, 1.5)
		d.text(max(x(b.median), x(b.max))+6, middle+4, "start", inkColour, short(b.median))
		y += barHeight
	}
	d.line(left, y-float64(len(bars)*barHeight), left, y, inkColour, 1)
	return y
}

// short writes a figure with three digits or all before the point.
func short(v float64) string {
	switch {
	case v >= 100:
		return thousands(int(math.Round(v)))
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// line is a figure that depends on a number.
type line struct {
	label  string
	ours   bool
	points []point
}

type point struct{ x, min, median, max float64 }

// level is a figure that does not.
type level struct {
	label string
	value float64
}

// lineChart draws lines over numbers of a logarithmic scale, as their figures
// are too.
func lineChart(title, across string, lines []line, levels []level) []byte {
	const left, right, head, foot = chartMargin + 56, chartWidth - chartMargin - 210, 48, 300
	var d drawing
	d.heading(chartMargin+14, title)
	var xs, ys []float64
	for _, l := range lines {
		for _, p := range l.points {
			xs, ys = append(xs, p.x), append(ys, p.min, p.max)
		}
	}
	for _, l := range levels {
		ys = append(ys, l.value)
	}
	if len(xs) == 0 || slices.Min(ys) <= 0 {
		return d.finish(head)
	}
	lowest, highest := math.Floor(math.Log10(slices.Min(ys))), math.Ceil(math.Log10(slices.Max(ys)))
	first, last := math.Log10(slices.Min(xs)), math.Log10(slices.Max(xs))
	x := func(v float64) float64 {
		return left + 20 + (right-left-40)*(math.Log10(v)-first)/max(last-first, 1e-9)
	}
	y := func(v float64) float64 { return foot - (foot-head)*(math.Log10(v)-lowest)/max(highest-lowest, 1e-9) }
	for e := lowest; e <= highest; e++ {
		at := y(math.Pow(10, e))
		d.line(left, at, right, at, gridColour, 1)
		d.text(left-8, at+4, "end", inkColour, thousands(int(math.Pow(10, e))))
	}
	for _, v := range slices.Compact(slices.Sorted(slices.Values(xs))) {
		d.text(x(v), foot+18, "middle", inkColour, thousands(int(v)))
	}
	d.text((left+right)/2, foot+38, "middle", inkColour, across)
	for _, l := range levels {
		fmt.Fprintf(&d, `<line x1="%d" y1="%.1f" x2="%d" y2="%.1[2]f" stroke="%[4]s" stroke-dasharray="5 4"/>`+"\n", left, y(l.value), right, inkColour)
	}
	for _, l := range lines {
		d.points(l, x, y)
	}
	d.names(lines, levels, right+10, y)
	return d.finish(foot + 56)
}

func (d *drawing) points(l line, x, y func(float64) float64) {
	var at []string
	for _, p := range l.points {
		at = append(at, fmt.Sprintf("%.1f,%.1f", x(p.x), y(p.median)))
		d.line(x(p.x), y(p.min), x(p.x), y(p.max), colourOf(l.ours), 1.5)
		fmt.Fprintf(d, `<circle cx="%.1f" cy="%.1f" r="4" fill="%s"/>`+"\n", x(p.x), y(p.median), colourOf(l.ours))
	}
	fmt.Fprintf(d, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2.5"/>`+"\n", strings.Join(at, " "), colourOf(l.ours))
}

// names writes at the right what each line is, from the top, none over another.
func (d *drawing) names(lines []line, levels []level, x float64, y func(float64) float64) {
	type name struct {
		at           float64
		text, colour string
	}
	var names []name
	for _, l := range lines {
		if n := len(l.points); n > 0 {
			end := l.points[n-1].median
			names = append(names, name{y(end), l.label + ": " + short(end), colourOf(l.ours)})
		}
	}
	for _, l := range levels {
		names = append(names, name{y(l.value), l.label + ": " + short(l.value), inkColour})
	}
	slices.SortFunc(names, func(a, b name) int { return int(math.Copysign(1, a.at-b.at)) })
	free := 0.0
	for _, n := range names {
		at := max(n.at, free)
		d.text(x, at+4, "start", n.colour, n.text)
		free = at + 16
	}
}
