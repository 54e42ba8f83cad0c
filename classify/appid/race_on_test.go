//go:build race

package appid

const raceEnabled = true
