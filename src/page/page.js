setInterval(async () => {
  const answer = await fetch("status");
  document.getElementById("status").textContent = JSON.stringify(await answer.json(), null, 2);
}, 1000);
