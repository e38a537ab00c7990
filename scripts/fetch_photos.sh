#!/usr/bin/env bash
# Photographs for super-resolution and the decoder, from Debian packages, scikit-image and matplotlib: docs/photos.md
# lists them with their licences. Needs Debian or Ubuntu; elsewhere put photographs of your own into the folder.
#   scripts/fetch_photos.sh [FOLDER]
set -euo pipefail
out=$(realpath -m "${1:-runs/photos}")
python=${PYTHON:-.venv/bin/python}
data=$("$python" -c 'import pathlib, skimage; print(pathlib.Path(skimage.__file__).parent / "data")')
hopper=$("$python" -c 'import matplotlib; print(matplotlib.get_data_path() + "/sample_data/grace_hopper.jpg")')
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"

cd "$work"
apt-get download -qq lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 mate-backgrounds plasma-workspace-wallpapers \
    palapeli-data
for package in *.deb; do dpkg -x "$package" .; done

for name in BytheWater ColdRipple ColorfulCups DarkestHour EveningGlow FallenLeaf Grey Kite OneStandsOut Path \
    summer_1am; do
    largest=$(find "usr/share/wallpapers/$name/contents/images" -type f -printf '%s %p\n' | sort -n | tail -n 1)
    cp "${largest#* }" "$out/plasma-$name.${largest##*.}"
done
for name in Bridge_by_Sander_Klootwijk Dragonfly_by_Bolly Kleiber_by_Lukas_Baubkus Picture_0B_by_freespace \
    Picture_1A_by_freespace Wine_by_Jakkub_Mede aitzgorri_by_Aitzol_Berasategi free_by_Peter_Nerlich \
    friends_by_Aitzol_Berasategi greentock_by_Peter_Nerlich life_by_Aitzol_Berasategi \
    picosdeeuropa_by_Aitzol_Berasategi seeding_by_Clements_Engelhardt sunset_by_Aitzol_Berasategi; do
    cp "usr/share/backgrounds/$name.jpg" "$out/lomiri-$name.jpg"
done
for photo in usr/share/backgrounds/mate/nature/*.jpg; do cp "$photo" "$out/mate-$(basename "$photo")"; done
for photo in usr/share/palapeli/collection/*.jpg; do cp "$photo" "$out/palapeli-$(basename "$photo")"; done
for name in astronaut.png brick.png chelsea.png coffee.png grass.png gravel.png hubble_deep_field.jpg \
    motorcycle_left.png rocket.jpg; do
    cp "$data/$name" "$out/skimage-$name"
done
cp "$hopper" "$out/matplotlib-grace_hopper.jpg"
echo "$(find "$out" -type f | wc -l) photographs in $out"
