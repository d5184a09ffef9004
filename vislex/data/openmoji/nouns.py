"""The curated vocabularies: plain nouns whose drawings can be told apart, as ``emoji name = noun``.

A bare entry is its own noun. Colours are dropped from names (a hue shift would make them lie), plural and mass nouns
are avoided, because captions say "a NOUN" and "two NOUNs".
"""

from __future__ import annotations

__all__ = ["CORE", "DEFAULT"]


def _parse(text: str) -> dict[str, str]:
    pairs = (entry.strip() for entry in text.replace("\n", ",").split(",") if entry.strip())
    return {name: noun or name.replace("_", " ") for name, _, noun in (pair.partition("=") for pair in pairs)}


CORE: dict[str, str] = _parse("""
dog_face=dog, cat_face=cat, rabbit_face=rabbit, fox, panda, koala, lion, cow_face=cow, pig_face=pig, frog, penguin
owl, elephant, giraffe, zebra, snake, turtle, octopus, crab, spouting_whale=whale, tropical_fish=fish, butterfly
snail, honeybee=bee, flamingo, shark, spider, lady_beetle=ladybug, red_apple=apple, banana, strawberry, watermelon
pineapple, lemon, pear, carrot, eggplant, mushroom, tomato, avocado, hamburger, pizza, hot_dog, doughnut=donut
birthday_cake=cake, lollipop, pretzel, croissant, automobile=car, bus, bicycle, airplane, rocket, sailboat, helicopter
tractor, fire_engine=fire truck, umbrella, key, guitar, drum, violin, pencil, hammer, light_bulb, candle, alarm_clock
camera, television, bell, balloon, wrapped_gift=gift, crown, top_hat, dress, soccer_ball, trophy, anchor, magnet
chair, door, house, castle, tent, deciduous_tree=tree, cactus, sunflower, tulip, sun, crescent_moon=moon, star, cloud
rainbow, snowman, fire=flame, volcano, red_heart=heart, ghost, robot, jack-o-lantern=pumpkin
""")

DEFAULT: dict[str, str] = CORE | _parse("""
cookie, t-shirt, necktie, mouse_face=mouse, hamster, bear, polar_bear, tiger_face=tiger, horse_face=horse, unicorn
monkey_face=monkey, gorilla, wolf, raccoon, moose, donkey, deer, goat, llama, two-hump_camel=camel, rhinoceros=rhino
hippopotamus=hippo, kangaroo, sloth, skunk, hedgehog, bat, beaver, rooster, baby_chick=chick, eagle, duck, swan, dodo
parrot, peacock, dove, turkey, goose, crocodile, lizard, dragon_face=dragon, T-Rex=dinosaur, seal, lobster, squid
jellyfish, ant, scorpion, mosquito, spider_web, feather, tangerine, mango, peach, cherries=cherry, kiwi_fruit=kiwi
ear_of_corn=corn cob, hot_pepper=chili pepper, bell_pepper, cucumber, broccoli, garlic, onion, pea_pod
baguette_bread=baguette, waffle, cheese_wedge, sandwich, taco, burrito, cooking=fried egg
soft_ice_cream=ice cream cone, cupcake, pie, chocolate_bar, baby_bottle, teapot, wine_glass, cocktail_glass=cocktail
beer_mug, bubble_tea, sushi, meat_on_bone=ham, poultry_leg=drumstick, spoon, kitchen_knife=knife
hot_beverage=cup of coffee, globe_showing_Americas=globe, church, factory, fountain, ferris_wheel, roller_coaster
circus_tent, locomotive=train, ambulance, racing_car=race car, motorcycle, motor_scooter=scooter, kick_scooter
skateboard, roller_skate, vertical_traffic_light=traffic light, stop_sign, ship, parachute, satellite
flying_saucer=ufo, hourglass_done=hourglass, watch, thermometer, snowflake, tornado, high_voltage=lightning bolt
ringed_planet=planet, Christmas_tree=christmas tree, baseball, basketball, volleyball, american_football=football
tennis=tennis ball
boxing_glove, ice_skate, fishing_pole=fishing rod, bullseye=target, yo-yo, kite, crystal_ball
video_game=game controller, joystick, game_die=die, puzzle_piece, teddy_bear, piñata=pinata, artist_palette=palette
yarn=ball of yarn, glasses=pair of glasses, jeans=pair of jeans, scarf, socks=pair of socks, handbag, backpack
running_shoe=sneaker, high-heeled_shoe=high heel, graduation_cap, billed_cap=cap, lipstick, ring, gem_stone=diamond
megaphone, musical_note, microphone, headphone=pair of headphones, radio, saxophone, trumpet, flute, telephone, laptop
printer, keyboard, floppy_disk, magnifying_glass_tilted_left=magnifying glass, flashlight, open_book=book, scroll
money_bag, envelope, closed_mailbox_with_raised_flag=mailbox, paintbrush, scissors=pair of scissors
wastebasket=trash can, axe, bomb, boomerang, bow_and_arrow, shield, wrench, screwdriver, gear, ladder, shovel
microscope, telescope, satellite_antenna=satellite dish, pill, window, bed, couch_and_lamp=couch, toilet, broom
toothbrush, fire_extinguisher, shopping_cart, headstone=gravestone, seedling=sprout, palm_tree, rose
four_leaf_clover=clover, maple_leaf, hatching_chick, tooth, bone, eye, ear, nose, brain, skull, alien
clown_face=clown, alien_monster=space invader, bucket, basket, coin, droplet=water drop, tram, dolphin, potato
military_helmet=helmet
""")
