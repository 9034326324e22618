// Plays a clip and a live stream in Chromium and prints what it saw as one line of JSON.
// Usage: node drive.mjs CHROMIUM '{"page": ..., "clip": ..., "live": ...}'
import { chromium } from "playwright-core";

const [executablePath, given] = process.argv.slice(2);
const { page: address, clip, live } = JSON.parse(given);
const browser = await chromium.launch({
  executablePath,
  args: [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
  ],
});
try {
  const page = await browser.newPage();
  page.setDefaultTimeout(20_000);
  await page.goto(address);
  const found = {};
  if (clip) found.clip = await page.evaluate((url) => window.playClip(url), clip);
  if (live) found.live = await page.evaluate((url) => window.playLive(url), live);
  console.log(JSON.stringify(found));
} finally {
  await browser.close();
}
