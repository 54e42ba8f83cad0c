//go:build !race

package appid

const raceEnabled = false
